"""The Ackline server: asyncio TCP, stores, sources, sinks and metrics."""

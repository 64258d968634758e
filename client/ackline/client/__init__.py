"""The Ackline client: an asyncio library and the `ackline` command."""

"""The peers: a module each, with its settings and what installs it."""

from __future__ import annotations

__all__ = ["MODULES"]

MODULES = (
    "ackline",
    "raw",
    "nginx",
    "tus_js",
    "tuspy",
    "websockets",
    "picows",
    "sse",
    "grpc",
    "redis",
    "nats",
    "rabbitmq",
    "mosquitto",
)
"""In the order of the tables."""

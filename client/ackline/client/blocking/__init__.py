"""The client for programs without asyncio: the same one, and every method waits.

with ackline.client.blocking.connect("ackline://127.0.0.1:7171") as client:
    client.upload("video.mp4", "videos/video.mp4")
    with client.subscribe("logs/app") as events:
        for event in events:
            print(event.id, event.text)

Exceptions and results are those of `ackline.client`.
"""

from __future__ import annotations

from ackline.client.blocking.client import Client, connect
from ackline.client.blocking.merging import Merged, merged
from ackline.client.blocking.publishers import Publisher
from ackline.client.blocking.subscriptions import Subscription

__all__ = ["Client", "Merged", "Publisher", "Subscription", "connect", "merged"]

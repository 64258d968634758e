"""The Ackline client: an asyncio library and the `ackline` command.

async with ackline.client.connect("ackline://127.0.0.1:7171") as client:
await client.upload("video.mp4", "videos/video.mp4")
async with client.subscribe("logs/app") as events:
async for event in events:
print(event.id, event.text)
"""

from __future__ import annotations

from ackline.client.client import Client
from ackline.client.connecting import connect
from ackline.client.connection_states import ConnectionPhase, ConnectionState
from ackline.client.fetches import FetchResult
from ackline.client.merging import merged
from ackline.client.options import ClientOptions
from ackline.client.progress import Progress
from ackline.client.publishers import Publisher
from ackline.client.subscriptions import Subscription
from ackline.client.tls import client_context
from ackline.client.transfers import FileReport, FolderResult
from ackline.client.uploads import UploadResult
from ackline.proto.batches import Event, Gap
from ackline.proto.entries import LeftOut
from ackline.proto.errors import (
    AcklineError,
    ChecksumConflict,
    Code,
    ConnectionLost,
    Refused,
    StreamCancelled,
    StreamEnded,
    StreamFailed,
    TakenOver,
    UsageError,
)
from ackline.proto.messages import Entry, Outcome, OutcomeKind, StatusReport

__all__ = [
    "AcklineError",
    "ChecksumConflict",
    "Client",
    "ClientOptions",
    "Code",
    "ConnectionLost",
    "ConnectionPhase",
    "ConnectionState",
    "Entry",
    "Event",
    "FetchResult",
    "FileReport",
    "FolderResult",
    "Gap",
    "LeftOut",
    "Outcome",
    "OutcomeKind",
    "Progress",
    "Publisher",
    "Refused",
    "StatusReport",
    "StreamCancelled",
    "StreamEnded",
    "StreamFailed",
    "Subscription",
    "TakenOver",
    "UploadResult",
    "UsageError",
    "client_context",
    "connect",
    "merged",
]

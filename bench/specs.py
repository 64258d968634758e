"""What is measured: one struct a workload, sent to server and client processes."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Fanout",
    "Fetch",
    "Folder",
    "Idle",
    "Many",
    "Mixed",
    "Publish",
    "Resume",
    "Spec",
    "Start",
    "Subscribe",
    "Upload",
    "size_text",
]

Medium = Literal["memory", "disk"]
Durability = Literal["written", "synced"]

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class Upload(Struct, frozen=True, kw_only=True, tag=True):
    """A file of `size` bytes in, verified at its end.

    Attributes:
        folder: where the server keeps it: `memory` is a tmpfs.
        durability: what is promised before a chunk is acknowledged.
        digest: what the whole is verified with.
        chunk_size: what is acknowledged as a whole, in bytes.
        tls: whether over TLS.
    """

    size: int = 1 << 30
    chunk_size: int = 4 << 20
    folder: Medium = "memory"
    durability: Durability = "written"
    digest: Literal["crc32c", "sha256", "blake3"] = "crc32c"
    tls: bool = False

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        digest = "" if self.digest == "crc32c" else f", {self.digest}"
        chunks = _scaled(self.chunk_size, 4 << 20, "chunks")
        tls = ", TLS" * self.tls
        return f"{self.folder}, {self.durability}{digest}{chunks}{tls}"


class Fetch(Struct, frozen=True, kw_only=True, tag=True):
    """A stored file of `size` bytes out into a file, verified at its end."""

    size: int = 1 << 30
    chunk_size: int = 4 << 20
    folder: Medium = "memory"

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return self.folder + _scaled(self.chunk_size, 4 << 20, "chunks")


class Folder(Struct, frozen=True, kw_only=True, tag=True):
    """`files` files of `size` bytes as one folder, and some of them one by one.

    Attributes:
        one_by_one: how many of them go by themselves, each after the one before.
        link: `far` has 10 ms of delay each way.
        folder: where the server keeps them.
    """

    files: int = 1_000
    size: int = 1_024
    one_by_one: int = 200
    link: Literal["loopback", "far"] = "far"
    folder: Medium = "disk"

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return f"{self.files} files of {self.size} B, {self.folder}, {self.link}"


class Subscribe(Struct, frozen=True, kw_only=True, tag=True):
    """`events` events of `size` bytes on one stream, their order checked."""

    events: int = 1_000_000
    size: int = 64
    tls: bool = False

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return f"{self.size} B" + ", TLS" * self.tls


class Publish(Struct, frozen=True, kw_only=True, tag=True):
    """`events` records of `size` bytes into a durable log, until the last ACK."""

    events: int = 1_000_000
    size: int = 100

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return f"{self.size} B"


class Many(Struct, frozen=True, kw_only=True, tag=True):
    """`streams` streams of `rate` events a second each; latency from the due time.

    Attributes:
        connections: that the streams are spread over.
        producers: `one` sends to all streams in turn; `each` stream has one of its
            own, which sleeps until its next event is due.
        seconds: how long.
    """

    streams: int = 1_000
    rate: float = 50.0
    size: int = 64
    seconds: float = 10.0
    connections: int = 1
    producers: Literal["one", "each"] = "one"

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        producers = "one producer" if self.producers == "one" else "a producer each"
        return (
            f"{self.streams} streams, {self.connections}"
            f" connection{'s' * (self.connections > 1)}, {producers}"
        )


class Fanout(Struct, frozen=True, kw_only=True, tag=True):
    """One log, `rate` events a second, to `subscribers` connections."""

    subscribers: int = 1_000
    rate: float = 50.0
    size: int = 64
    seconds: float = 10.0

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return f"{self.rate:g} events/s to {self.subscribers}"


class Mixed(Struct, frozen=True, kw_only=True, tag=True):
    """Tokens at `rate` a second beside a transfer, on one connection.

    Attributes:
        bulk: what the tokens are beside; `none`: they are alone.
        tokens: whether there are any: without, the transfer is alone.
        link: `slow` has 50 Mbit/s, 20 ms of delay and a queue of one bandwidth-delay
            product. There 4 MiB go before the clock runs: while TCP searches the rate
            it overruns the queue, and what follows a lost packet waits a round trip
            longer, whoever sends it.
    """

    bulk: Literal["upload", "fetch", "none"] = "upload"
    tokens: bool = True
    size: int = 1 << 30
    rate: float = 100.0
    link: Literal["loopback", "slow"] = "loopback"

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        beside = "tokens alone" if self.bulk == "none" else f"tokens beside {self.bulk}"
        what = beside if self.tokens else f"{self.bulk} alone"
        return f"{what}, {self.link}"


class Idle(Struct, frozen=True, kw_only=True, tag=True):
    """Streams on which nothing happens: what they cost in memory.

    Attributes:
        kind: of subscription; `generator`: each to a run of its own.
    """

    connections: int = 5_000
    streams: int = 5_000
    kind: Literal["log", "generator"] = "log"

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return f"{self.streams} {self.kind}s on {self.connections} connections"


class Resume(Struct, frozen=True, kw_only=True, tag=True):
    """A connection is cut and comes back.

    Attributes:
        what: an upload of `size` bytes, cut after `cut_at`; or `streams` subscriptions.
    """

    what: Literal["upload", "streams"] = "upload"
    size: int = 1 << 30
    cut_at: int = 740_000_000
    streams: int = 1_000

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        if self.what == "streams":
            return f"{self.streams} streams"
        return f"upload cut at {self.cut_at / 1e6:.0f} MB"


class Start(Struct, frozen=True, kw_only=True, tag=True):
    """The client is imported; a server starts and accepts a first connection."""

    @property
    def variant(self) -> str:
        """Return what sets this measurement apart from others of its workload."""
        return "import and start"


Spec: TypeAlias = (
    Upload
    | Fetch
    | Folder
    | Subscribe
    | Publish
    | Many
    | Fanout
    | Mixed
    | Idle
    | Resume
    | Start
)


def size_text(size: int) -> str:
    """Return `size` bytes in the largest unit that divides it."""
    for name, unit in _UNITS:
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def _scaled(size: int, usual: int, what: str) -> str:
    return "" if size == usual else f", {what} of {size_text(size)}"

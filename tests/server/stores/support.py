"""What the tests of the stores share: a clock, a disk that fails, small helpers."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.proofs import NOTHING
from ackline.server.stores.clock import ObservedClock
from ackline.server.stores.entities import Append, UploadParameters
from ackline.server.stores.files import Files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from ackline.server.stores.seams import Log, Upload

IDENTITY = "alice"
CHUNK = 1024


class Clock(ObservedClock):
    """Unix seconds that move when told to: `now` as time passes, `jumped` at once."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.jumped = 0.0
        super().__init__(lambda: self.now + self.jumped, lambda: self.now)


class FaultyFiles(Files):
    """A file system whose calls fail, come up short or wait when told to.

    `fail["fdatasync"] = errno.EIO` lets every following call fail until it is removed.
    A gate holds calls until it is opened.
    """

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.gates: dict[str, threading.Event] = {}
        self.short_writes = False
        self.can_allocate = True
        self.of_memory = False
        self.space: int | None = None

    def _enter(self, call: str) -> None:
        self.calls[call] += 1
        gate = self.gates.get(call)
        if gate is not None:
            assert gate.wait(10)
        error = self.fail.get(call)
        if error is not None:
            raise OSError(error, os.strerror(error))

    def open(self, path: Path, flags: int) -> int:
        self._enter("open")
        return super().open(path, flags)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._enter("pwritev")
        if self.short_writes:
            first = memoryview(buffers[0]).cast("B")
            return super().pwritev(fd, [first[: max(1, len(first) // 2)]], offset)
        return super().pwritev(fd, buffers, offset)

    def read_now(self, fd: int, buffer: Buffer, offset: int, *, in_memory: bool) -> int:
        self._enter("preadv")
        return super().read_now(fd, buffer, offset, in_memory=in_memory)

    def preadv(self, fd: int, buffer: Buffer, offset: int) -> int:
        self._enter("preadv")
        return super().preadv(fd, buffer, offset)

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync")
        super().fdatasync(fd)

    def drop_cache(self, fd: int) -> None:
        self._enter("drop_cache")
        super().drop_cache(fd)

    def sync_directory(self, path: Path) -> None:
        self._enter("sync_directory")
        super().sync_directory(path)

    def unlink(self, path: Path) -> None:
        self._enter("unlink")
        super().unlink(path)

    def allocate(self, fd: int, size: int) -> bool:
        self._enter("allocate")
        return self.can_allocate and super().allocate(fd, size)

    def in_memory(self, path: Path) -> bool:
        return self.of_memory

    def free(self, path: Path) -> int:
        self._enter("free")
        return super().free(path) if self.space is None else self.space


def crash(folder: Path, copy: Path) -> Path:
    """Return a copy of a data folder as a crash would leave it right now.

    The original may be open: its lock is not copied, and nothing is tidied up.
    """
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm", "lock"))
    return copy


def parameters(
    name: str = "video.mp4", *, chunk_size: int = CHUNK, **changes: object
) -> UploadParameters:
    """Return the parameters of a small upload."""
    values: dict[str, object] = {"identity": IDENTITY, "chunk_size": chunk_size}
    return UploadParameters(name=name, **(values | changes))  # type: ignore[arg-type]


def pieces(data: bytes, size: int = CHUNK) -> list[bytes]:
    """Return the chunks of some bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def put(upload: Upload, index: int, data: bytes) -> None:
    """Store a whole chunk."""
    await upload.store(
        index, data, crc32c(data), epoch=upload.record.epoch, length=len(data)
    )


async def put_all(upload: Upload, data: bytes) -> None:
    """Store all chunks of some bytes, in order."""
    for index, chunk in enumerate(pieces(data, upload.record.parameters.chunk_size)):
        await put(upload, index, chunk)


class Publisher:
    """Makes the batches that follow each other in a log."""

    def __init__(
        self, log: Log, name: str = "producer", *, epoch: int = 1, position: int = 0
    ) -> None:
        self.log = log
        self.name = name
        self.epoch = epoch
        self.position = position
        state = log.publisher(name)
        self.sums = state.sums if state else NOTHING

    def batch(self, payload: bytes, count: int = 1) -> Append:
        """Return the next batch; the sums are over payloads, as good as any."""
        self.sums = self.sums.extended(payload[:4], payload)
        batch = Append(
            publisher=self.name,
            epoch=self.epoch,
            first_unit=self.position,
            count=count,
            payload=payload,
            payload_crc=crc32c(payload),
            publisher_sums=self.sums,
            log_sums=self.log.sums.extended(payload[:4], payload),
        )
        self.position += count
        return batch

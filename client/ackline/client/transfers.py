"""Many files on their way side by side, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from ackline.client.progress import Progress
from ackline.proto.errors import AcklineError, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from ackline.client.progress import OnProgress

__all__ = ["File", "FileReport", "FolderResult", "OnFile", "Transfers", "failed"]

FILES_AT_ONCE = 64
"""Files on their way together: they share round trips. A server that has so many at
once commits them in groups, and is no faster with more."""

BYTES_AT_ONCE = 16 * 2**20
"""Bytes of the files on their way: of large ones only a few are begun, so that few are
unfinished after an interruption. One that is larger goes alone."""


class File(Struct, frozen=True):
    """A file to be transferred, and the object that it is."""

    path: Path
    name: str
    size: int


class FileReport(Struct, frozen=True, kw_only=True):
    """What became of one file of a folder.

    Attributes:
        path: of the file.
        name: of the object.
        state: transferred; present: the same bytes were there already; skipped: it is
            neither a file nor a folder; failed.
        size: bytes, of what was transferred or present.
        text: why it was skipped or failed.
    """

    path: str
    name: str
    state: Literal["transferred", "present", "skipped", "failed"]
    size: int = 0
    text: str = ""


class FolderResult(Struct, frozen=True, kw_only=True):
    """What became of a folder.

    Attributes:
        transferred: files that were sent or fetched, of `bytes` bytes.
        bytes: of the files transferred.
        present: files of which the same bytes were there already.
        skipped: links, pipes and the like, which are left out.
        failed: files that could not be transferred. All others were.
    """

    transferred: int
    bytes: int
    present: int
    skipped: int
    failed: tuple[FileReport, ...]


OnFile: TypeAlias = "Callable[[FileReport], object]"


def failed(path: Path, name: str, error: Exception | str) -> FileReport:
    """Return the report of a file that an error kept from being transferred."""
    text = str(error)
    if isinstance(error, OSError):
        text = error.strerror or text
    return FileReport(path=str(path), name=name, state="failed", text=text)


class Transfers:
    """Runs transfers side by side, and counts what becomes of them.

    Args:
        on_file: told what became of each file.
        on_progress: told the bytes that are done, of all files.
    """

    def __init__(self, on_file: OnFile | None, on_progress: OnProgress | None) -> None:
        self._on_file = on_file
        self._on_progress = on_progress
        self._running: dict[asyncio.Task[None], int] = {}
        self._ended = asyncio.Event()
        self._fatal: BaseException | None = None
        self._counts: Counter[str] = Counter()
        self._failed: list[FileReport] = []
        self._bytes = 0
        self._done = 0
        self._began = 0
        self._total = 0
        self._moving: dict[str, Progress] = {}

    async def run(
        self,
        files: Sequence[File],
        move: Callable[[File], Coroutine[Any, Any, bool]],
    ) -> None:
        """Transfer files.

        Args:
            files: which.
            move: transfers one; returns whether there was anything to transfer. What it
                raises is what became of that file.

        Raises:
            ConnectionLost: there is no server any more.
        """
        self._total = sum(file.size for file in files)
        try:
            for file in files:
                while self._full(file.size):
                    await self._one_ends()
                task = asyncio.create_task(self._move(file, move))
                self._running[task] = file.size
                task.add_done_callback(self._end)
            while self._running:
                await self._one_ends()
        finally:
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(list(self._running))

    def tell(self, report: FileReport) -> None:
        """Count a file and say what became of it."""
        self._counts[report.state] += 1
        if report.state == "failed":
            self._failed.append(report)
        if self._on_file is not None:
            self._on_file(report)

    def moved(self, file: File, progress: Progress) -> None:
        """Take note how far a file is."""
        self._moving[file.name] = progress
        self._show()

    def result(self) -> FolderResult:
        """Return what became of all files."""
        return FolderResult(
            transferred=self._counts["transferred"],
            bytes=self._bytes,
            present=self._counts["present"],
            skipped=self._counts["skipped"],
            failed=tuple(self._failed),
        )

    # Private

    def _full(self, size: int) -> bool:
        running = self._running
        return bool(running) and (
            len(running) >= FILES_AT_ONCE
            or sum(running.values()) + size > BYTES_AT_ONCE
        )

    async def _one_ends(self) -> None:
        self._ended.clear()
        await self._ended.wait()
        if self._fatal is not None:
            raise self._fatal

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        error = None if task.cancelled() else task.exception()
        self._fatal = self._fatal or error
        self._ended.set()

    async def _move(
        self, file: File, move: Callable[[File], Coroutine[Any, Any, bool]]
    ) -> None:
        state: Literal["transferred", "present"]
        try:
            state = "transferred" if await move(file) else "present"
        except ConnectionLost:
            raise
        except (AcklineError, OSError) as error:
            self._over(file, 0)
            self.tell(failed(file.path, file.name, error))
            return
        if state == "transferred":
            self._bytes += file.size
        else:
            self._began += file.size
        self._over(file, file.size)
        self.tell(
            FileReport(path=str(file.path), name=file.name, state=state, size=file.size)
        )

    def _over(self, file: File, done: int) -> None:
        moving = self._moving.pop(file.name, None)
        if moving is not None:
            self._began += moving.began
        self._done += done
        self._show()

    def _show(self) -> None:
        if self._on_progress is not None:
            moving = self._moving.values()
            self._on_progress(
                Progress(
                    done=self._done + sum(each.done for each in moving),
                    total=self._total,
                    began=self._began + sum(each.began for each in moving),
                    resumes=0,
                    held=next((each.held for each in moving if each.held), ""),
                )
            )

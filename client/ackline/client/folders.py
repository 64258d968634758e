"""Folders: many files, uploaded or fetched side by side.

There is no state of a folder to be kept: what has to be transferred is what differs
from what the server lists in size, CRC-32C or metadata. So a folder that was broken off
is continued by asking again, from another machine too.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from msgspec import Struct

from ackline.client.options import DEFAULT_CHUNK_SIZE
from ackline.client.transfers import File, FileReport, Transfers, failed
from ackline.proto.checksums import crc32c
from ackline.proto.errors import (
    Code,
    Refused,
    UsageError,
)
from ackline.proto.resource import name_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ackline.client.client import Client
    from ackline.client.state import StateOption
    from ackline.client.threads import Threads
    from ackline.client.transfers import FolderResult
    from ackline.client.uploads import DurabilityName, ExistingName
    from ackline.proto.values import Value

__all__ = ["FolderFetch", "FolderUpload", "UploadOptions"]

MAX_OBJECTS = 1_000_000
"""Objects of one folder: no server can fill the memory with names."""

BLOCK = 2**20


class Stored(Struct, frozen=True):
    """An object that a file is compared with: size, CRC-32C, metadata."""

    size: int
    crc: int
    metadata: Mapping[str, Value]


class UploadOptions(TypedDict, total=False):
    """What is the same for all files of a folder; see `Client.upload`."""

    chunk_size: int
    algorithm: str
    existing: ExistingName
    metadata: Mapping[str, Value] | None
    durability: DurabilityName


class FolderUpload:
    """Uploads what a folder has and the server has not; see `Client.upload_folder`."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        name: str | None,
        threads: Threads,
    ) -> None:
        name = folder.resolve().name if name is None else name.rstrip("/")
        self._client = client
        self._folder = folder
        self._prefix = name and name + "/"
        self._transfers = Transfers(None, None)
        self._threads = threads
        self._state: StateOption = None
        self._options = UploadOptions()
        self._there: dict[str, Stored] = {}

    async def run(
        self, transfers: Transfers, state: StateOption, options: UploadOptions
    ) -> FolderResult:
        """Upload.

        Raises:
            OSError: the folder itself cannot be read.
        """
        self._transfers, self._state, self._options = transfers, state, options
        os.scandir(self._folder).close()
        found = await self._threads.run(lambda: list(walk(self._folder, self._prefix)))
        files = [each for each in found if isinstance(each, File)]
        for each in found:
            if isinstance(each, FileReport):
                self._transfers.tell(each)
        self._there = await stored(self._client, self._prefix)
        await self._transfers.run(files, self._one)
        return self._transfers.result()

    async def _one(self, file: File) -> bool:
        there, options = self._there.get(file.name), self._options
        if (
            there is not None
            and there.metadata == (options.get("metadata") or {})
            and await same(file.path, there, self._threads)
        ):
            return False
        result = await self._client.upload(
            file.path,
            file.name,
            state=worth(self._state, file, options.get("chunk_size")),
            on_progress=partial(self._transfers.moved, file),
            **options,
        )
        # Or it was committed since: what was interrupted just now goes on there.
        return result.chunks_sent > 0 or not result.size


class FolderFetch:
    """Fetches what the server has and a folder has not; see `Client.fetch_folder`."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        folder: Path,
        threads: Threads,
    ) -> None:
        self._client = client
        self._prefix = prefix.removeprefix("objects/")
        self._folder = folder
        self._transfers = Transfers(None, None)
        self._threads = threads
        self._state: StateOption = None
        self._there: dict[str, Stored] = {}

    async def run(self, transfers: Transfers, state: StateOption) -> FolderResult:
        """Fetch.

        Raises:
            Refused: `not_found`: no name begins so.
            OSError: the folder cannot be made.
        """
        self._transfers, self._state = transfers, state
        self._there = await stored(self._client, self._prefix)
        if not self._there:
            raise Refused(
                Code.NOT_FOUND,
                f"no name of an object begins with {self._prefix!r}",
                retry=False,
                resource=f"objects/{self._prefix}",
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        files: list[File] = []
        for name, object_ in self._there.items():
            path = self._folder / name.removeprefix(self._prefix)
            fault = self._fault(name)
            if fault is None:
                files.append(File(path, name, object_.size))
            else:
                self._transfers.tell(failed(self._folder, name, fault))
        await self._transfers.run(files, self._one)
        return self._transfers.result()

    def _fault(self, name: str) -> str | None:
        """Return why a name must not become a path, None if it may.

        Whoever named the object may be hostile, and so may the server.
        """
        relative = name.removeprefix(self._prefix)
        if any(part in ("", ".", "..") for part in relative.split("/")):
            return "its name is no path inside a folder: fetch it by itself"
        if any(ord(character) < 32 for character in relative):
            return "its name has control characters: fetch it by itself"
        above = relative.split("/")
        while above.pop() and above:
            parent = self._prefix + "/".join(above)
            if parent in self._there:
                return f"{parent} is an object too: no file is a folder as well"
        stem = name.removesuffix(".part")
        if stem != name and stem in self._there:
            return f"the file of {stem} is put together under that name: fetch it alone"
        return None

    async def _one(self, file: File) -> bool:
        there, path = self._there[file.name], file.path
        inside = self._folder.resolve()
        if not path.parent.resolve().is_relative_to(inside):
            raise UsageError(f"{path.parent} is a link that leads out of the folder")
        if path.is_file() and await same(path, there, self._threads):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        await self._client.fetch(
            file.name,
            path,
            state=worth(self._state, file),
            on_progress=partial(self._transfers.moved, file),
        )
        return True


def walk(folder: Path, prefix: str) -> Iterator[File | FileReport]:
    """Yield the files of a folder and its folders, ordered; say what is none.

    Links are not followed: one may lead anywhere, in circles too.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield failed(folder, prefix, error)
        return
    for entry in found:
        path, name = Path(entry.path), prefix + entry.name
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            yield failed(path, name, error)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from walk(path, name + "/")
        elif stat.S_ISREG(status.st_mode):
            yield _named(path, name, status.st_size)
        else:
            link = stat.S_ISLNK(status.st_mode)
            yield FileReport(
                path=str(path),
                name=name,
                state="skipped",
                text="is a symbolic link" if link else "is no regular file",
            )


def _named(path: Path, name: str, size: int) -> File | FileReport:
    fault = name_fault(name)
    if fault is not None:
        return failed(path, name, f"{name!r} cannot be the name of an object: {fault}")
    return File(path, name, size)


def worth(state: StateOption, file: File, chunk_size: int | None = None) -> StateOption:
    """Return where to remember how to continue: a file of one chunk begins again.

    For a thousand small files it took longer than to send them.
    """
    return state if file.size > (chunk_size or DEFAULT_CHUNK_SIZE) else False


async def stored(client: Client, prefix: str) -> dict[str, Stored]:
    """Return the newest objects whose names begin with a prefix.

    Raises:
        UsageError: there are too many.
    """
    found: dict[str, Stored] = {}
    async for entry in client.list(f"objects/{prefix}"):
        name, crc = entry.resource.removeprefix("objects/"), entry.facts.get("crc")
        # A server may say anything; what was not asked for is not of this folder.
        if isinstance(crc, int) and name.startswith(prefix):
            found[name] = Stored(entry.size, crc, entry.metadata)
        if len(found) > MAX_OBJECTS:
            raise UsageError(
                f"more than {MAX_OBJECTS:,} names begin with {prefix!r}; take a part of"
                " them"
            )
    return found


async def same(path: Path, there: Stored, threads: Threads) -> bool:
    """Tell whether a file has the bytes of an object; read it if it has the size.

    Raises:
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(fd).st_size != there.size:
            return False
        crc, buffer = 0, memoryview(bytearray(min(BLOCK, there.size) or 1))
        while got := await threads.run(lambda: os.readv(fd, [buffer])):
            crc = crc32c(buffer[:got], crc)
        return crc == there.crc
    finally:
        os.close(fd)

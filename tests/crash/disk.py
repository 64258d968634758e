"""A disk with a page cache: what a crash may leave of it.

The model is POSIX at its least: bytes are safe once their file was synced, names once
their directory was. Whatever was not may be there, gone or torn, each on its own and in
any order. A sync that fails leaves bytes that no later sync will write, because the
kernel calls their pages clean; who reads them sees them until the cache lets go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

__all__ = ["Cut", "Disk", "Image", "StoredFile"]

#: What a folder holds: the bytes of files by their path, None for a folder.
Image = dict[str, bytes | None]

#: Bytes that a disk writes whole.
_SECTOR = 512


class Cut(Enum):
    """How much of what was not synced is there after a crash."""

    #: All: the process was killed, the machine goes on.
    KILLED = auto()
    #: Nothing.
    LOST = auto()
    #: Names in the order in which they changed, up to some change; bytes as below.
    ORDERED = auto()
    #: Each change kept, lost or torn.
    TORN = auto()


class _State(Enum):
    PENDING = auto()
    SAFE = auto()
    #: A sync of it failed.
    DOOMED = auto()


@dataclass(slots=True)
class _Edit:
    """Bytes at an offset, or (without bytes) a new length."""

    offset: int
    data: bytes | None
    state: _State = _State.PENDING


@dataclass(slots=True)
class StoredFile:
    """A file: what is surely on the disk, and the changes since."""

    safe: bytearray = field(default_factory=bytearray)
    edits: list[_Edit] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Note bytes that were written."""
        self.edits.append(_Edit(offset, data))

    def resize(self, size: int) -> None:
        """Note a new length."""
        self.edits.append(_Edit(size, None))

    def sync(self) -> None:
        """Make what was written safe, but for what an earlier sync gave up."""
        for edit in self.edits:
            if edit.state is _State.PENDING:
                edit.state = _State.SAFE
        while self.edits and self.edits[0].state is _State.SAFE:
            _apply(self.safe, self.edits.pop(0))

    def fail_sync(self) -> None:
        """Give up what was written since the last sync."""
        for edit in self.edits:
            if edit.state is _State.PENDING:
                edit.state = _State.DOOMED

    def drop_cache(self, rng: Random) -> bytes | None:
        """Decide what the disk has of what was given up.

        Returns:
            What a reader sees from now on, or None if that is what it was.
        """
        if all(edit.state is not _State.DOOMED for edit in self.edits):
            return None
        edits, self.edits = self.edits, []
        for edit in edits:
            if edit.state is not _State.DOOMED:
                self.edits.append(edit)
                continue
            for part in _torn(edit, rng):
                part.state = _State.SAFE
                self.edits.append(part)
        return self.seen()

    def seen(self) -> bytes:
        """Return the bytes as a reader sees them."""
        content = bytearray(self.safe)
        for edit in self.edits:
            _apply(content, edit)
        return bytes(content)

    def left(self, cut: Cut, rng: Random) -> bytes:
        """Return what a crash leaves."""
        content = bytearray(self.safe)
        for edit in self.edits:
            if edit.state is _State.SAFE or cut is Cut.KILLED:
                _apply(content, edit)
            elif cut is not Cut.LOST:
                for part in _torn(edit, rng):
                    _apply(content, part)
        return bytes(content)


@dataclass(slots=True)
class _Naming:
    """A change of a directory: names that go and names that come, all at once."""

    parent: str
    gone: tuple[str, ...] = ()
    come: tuple[tuple[str, StoredFile | None], ...] = ()

    def apply(self, names: dict[str, StoredFile | None]) -> None:
        for name in self.gone:
            names.pop(name, None)
        names.update(self.come)


class Disk:
    """The files below one folder.

    Every change comes in by a method. `before` is called ahead of each, which is where
    a crash may be tried; `fault` may let it fail.
    """

    def __init__(self, root: Path, rng: Random, image: Image | None = None) -> None:
        self.root = root
        self.rng = rng
        self.before: Callable[[], None] = lambda: None
        #: Returns the errno that a call (of `ackline.server.stores.files`) fails with.
        self.fault: Callable[[str, str], int] = lambda _call, _path: 0
        #: Says which syncs do nothing: a fault that is planted.
        self.deaf: Callable[[str, str], bool] = lambda _call, _path: False
        self._safe: dict[str, StoredFile | None] = {
            name: None if content is None else StoredFile(bytearray(content))
            for name, content in (image or {}).items()
        }
        self._names = dict(self._safe)
        self._namings: list[_Naming] = []

    def name(self, path: Path) -> str:
        """Return the name of a file here."""
        return str(path.relative_to(self.root))

    def file(self, name: str) -> StoredFile | None:
        """Return a file by its present name; None for a folder, or nothing."""
        return self._names.get(name)

    def create(self, name: str) -> StoredFile:
        """Note a new file; return it."""
        file = StoredFile()
        self._rename(_Naming(_parent(name), come=((name, file),)))
        return file

    def unlink(self, name: str) -> None:
        """Note that a name, if it is there, was removed."""
        if name in self._names:
            self._rename(_Naming(_parent(name), gone=(name,)))

    def rename(self, name: str, other: str) -> None:
        """Note that a file has another name."""
        come = ((other, self._names[name]),)
        self._rename(_Naming(_parent(name), gone=(name,), come=come))

    def make_directory(self, name: str) -> None:
        """Note a new directory, unless it is there."""
        if name not in self._names:
            self._rename(_Naming(_parent(name), come=((name, None),)))

    def remove_directory(self, name: str) -> None:
        """Note that a directory was removed, one file after the other."""
        for inner in sorted(self._names):
            if inner.startswith(f"{name}/"):
                self.unlink(inner)
        self.unlink(name)

    def sync_directory(self, name: str) -> None:
        """Note that the names in a directory were synced."""
        self.before()
        if self.deaf("sync_directory", name):
            return
        kept: list[_Naming] = []
        for naming in self._namings:
            if naming.parent == name:
                naming.apply(self._safe)
            else:
                kept.append(naming)
        self._namings = kept

    def left(self, cut: Cut) -> Image:
        """Return what a crash at this moment leaves."""
        names = dict(self._safe)
        for naming in self._kept(cut):
            naming.apply(names)
        image: Image = {}
        for name, file in names.items():
            if _reachable(name, names):
                image[name] = None if file is None else file.left(cut, self.rng)
        return image

    def _kept(self, cut: Cut) -> list[_Naming]:
        """Return the changes of directories that a crash leaves."""
        if cut is Cut.KILLED:
            return self._namings
        if cut is Cut.LOST:
            return []
        if cut is Cut.ORDERED:
            return self._namings[: self.rng.randint(0, len(self._namings))]
        return [naming for naming in self._namings if self.rng.random() < 0.5]

    def _rename(self, naming: _Naming) -> None:
        self.before()
        naming.apply(self._names)
        self._namings.append(naming)


def _parent(name: str) -> str:
    return name.rpartition("/")[0] or "."


def _reachable(name: str, names: dict[str, StoredFile | None]) -> bool:
    parent = _parent(name)
    return parent == "." or (parent in names and _reachable(parent, names))


def _apply(content: bytearray, edit: _Edit) -> None:
    if edit.data is None:
        if edit.offset < len(content):
            del content[edit.offset :]
        else:
            content.extend(bytes(edit.offset - len(content)))
        return
    if edit.offset > len(content):
        content.extend(bytes(edit.offset - len(content)))
    content[edit.offset : edit.offset + len(edit.data)] = edit.data


def _torn(edit: _Edit, rng: Random) -> list[_Edit]:
    """Return what is left of a change: all of it, nothing, or some of its sectors."""
    fate = rng.random()
    if fate < 0.35 or (edit.data is None and fate < 0.5):
        return [edit]
    if fate < 0.65 or edit.data is None:
        return []
    end = edit.offset + len(edit.data)
    parts: list[_Edit] = []
    at = edit.offset
    while at < end:
        until = min(end, at - at % _SECTOR + _SECTOR)
        if rng.random() < 0.5:
            data = edit.data[at - edit.offset : until - edit.offset]
            parts.append(_Edit(at, data))
        elif rng.random() < 0.3:  # the length was written, and the bytes were not
            parts.append(_Edit(at, rng.choice((bytes, rng.randbytes))(until - at)))
        at = until
    return parts

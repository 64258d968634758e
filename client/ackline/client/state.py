"""What a client remembers between two runs: a small JSON file for each thing.

```
FOLDER/uploads/ID.json        {"key": …, "upload_id": …, once committed "object_id": …}
FOLDER/fetches/ID.json        {"object_id": …, "chunk_size": …, in parts "written": …}
FOLDER/publishers/ID.json     {"key": …, "position": …}
FOLDER/subscriptions/ID.json  {"resource": …, "generation": …, "key": …}
```

ID is a hash of what identifies the thing: for an upload the server, the name, and the
path, size and time of change of the file, so that a file that was edited is another
upload. What was committed is remembered, so that the same upload again finds it done:
the process before may have been killed before anybody read its result. Files are
replaced atomically. A lock file beside each keeps two processes from doing the same
thing at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from ackline.proto.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "Entry",
    "Remembered",
    "State",
    "StateOption",
    "Value",
    "default_state_dir",
    "open_state",
]

Section = Literal["uploads", "fetches", "publishers", "subscriptions"]
Value: TypeAlias = str | int | float
Entry: TypeAlias = dict[str, Value]

KEEP_SECONDS = 30 * 86_400.0
"""Entries not written for a month may be dropped: a server forgets an abandoned upload
after a day."""

KEEP_FILES = 1_000
"""Files of a section that stay however old they look: a clock that jumped ahead makes
all of them look old, also what is about to be resumed."""


class Remembered(Protocol):
    """What is remembered of one thing."""

    def get(self) -> Entry:
        """Return what is remembered; empty if nothing is."""
        ...

    def put(self, **values: Value) -> None:
        """Remember values, beside those remembered already."""
        ...

    def drop(self) -> None:
        """Forget."""
        ...


def default_state_dir() -> Path:
    """Return `$XDG_STATE_HOME/ackline`, by default `~/.local/state/ackline`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "ackline"
    return Path.home() / ".local" / "state" / "ackline"


class State:
    """One entry: what is remembered of one upload, fetch, publisher or subscription.

    Args:
        folder: for all entries; made when something is to be remembered.
        section: what it is.
        identity: what makes it this one and no other.
    """

    def __init__(self, folder: Path, section: Section, *identity: object) -> None:
        text = json.dumps([str(part) for part in identity])
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._folder = folder / section
        self._path = self._folder / f"{name}.json"

    def get(self) -> Entry:
        """Return what is remembered; empty if nothing is."""
        try:
            found: Any = json.loads(self._path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}  # a file that is not ours, or torn by a crash, remembers nothing
        return cast("Entry", found) if isinstance(found, dict) else {}

    def put(self, **values: Value) -> None:
        """Remember values, beside those remembered already.

        Raises:
            UsageError: the folder cannot be written.
        """
        entry = {**self.get(), **values}
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        with self._writing():
            with draft.open("w") as file:
                json.dump(entry, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)

    def drop(self) -> None:
        """Forget."""
        with self._writing():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, what: str) -> Generator[None, None, None]:
        """Keep other processes from the same thing, until the block ends.

        Raises:
            UsageError: another process is at it, or the folder cannot be written.
        """
        path = self._path.with_suffix(".lock")
        with self._writing():
            self._prune()
            lock = path.open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is at it already: {what}") from None
            try:
                yield
            finally:
                if not self._path.exists():
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Generator[None, None, None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            yield
        except OSError as error:
            raise UsageError(
                f"cannot keep state in {self._folder}: {error.strerror or error};"
                " name another folder"
            ) from error

    def _prune(self) -> None:
        paths = list(self._folder.iterdir())
        if len(paths) <= KEEP_FILES:
            return
        written: dict[Path, float] = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                written[path] = path.stat().st_mtime
        oldest = time.time() - KEEP_SECONDS
        for path in sorted(written, key=written.__getitem__)[:-KEEP_FILES]:
            if written[path] < oldest and path != self._path:
                path.unlink(missing_ok=True)


StateOption: TypeAlias = str | os.PathLike[str] | Literal[False] | None


def open_state(
    option: StateOption, section: Section, *identity: object
) -> State | None:
    """Return the entry in the folder a caller means: None is the default one.

    Returns:
        None if the caller wants nothing remembered.
    """
    if option is False:
        return None
    folder = default_state_dir() if option is None else Path(option)
    return State(folder, section, *identity)

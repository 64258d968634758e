"""What the clients of a store know: its answers, and what they asked without one."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ackline.proto.proofs import ProofSum

__all__ = [
    "GONE",
    "SOME",
    "Batch",
    "Change",
    "Facts",
    "Key",
    "LogFacts",
    "UploadFacts",
    "Violation",
]

#: What can change by itself, by kind and name: ("run", id), ("object", name), …
Key = tuple[str, ...]

#: The value of what is not there.
GONE = "(gone)"

#: A value that is there, and not known before it was answered.
SOME = "(some)"


class Violation(AssertionError):  # noqa: N818 - as SPEC.md calls it
    """Report a store that does not keep to what clients were told."""


class Change(NamedTuple):
    """Values that change together: all of them or none."""

    values: dict[Key, object]


class Batch(NamedTuple):
    """A batch as it was appended to a log, and the log's and publisher's state then."""

    first_id: int
    next_id: int
    payload: bytes
    publisher: str
    units: int
    sums: ProofSum


@dataclass(slots=True)
class UploadFacts:
    """An upload: what its chunks are, and which of them are stored.

    Attributes:
        name: Of the object.
        data: All its bytes.
        chunk_size: Bytes of a chunk.
        synced: Whether a stored chunk survives a power cut before the commit.
        told: Chunks of which the client knows that they are stored.
        sinks: Which have to take the object.
    """

    name: str
    data: bytes
    chunk_size: int
    synced: bool
    told: set[int] = field(default_factory=set)
    sinks: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-len(self.data) // self.chunk_size)

    def chunk(self, index: int) -> bytes:
        """Return the bytes of a chunk."""
        return self.data[index * self.chunk_size : (index + 1) * self.chunk_size]

    def copy(self) -> UploadFacts:
        """Return what is known now."""
        return UploadFacts(
            self.name,
            self.data,
            self.chunk_size,
            self.synced,
            self.told.copy(),
            self.sinks,
        )


@dataclass(slots=True)
class LogFacts:
    """A log: what was appended to it, and what of it anybody knows to be stored.

    Attributes:
        batches: In order, those without an answer too.
        told_to: Id before which everything was acknowledged or read.
        kept_from: Id from which on everything has to be retained.
    """

    batches: list[Batch] = field(default_factory=list)
    told_to: int = 0
    kept_from: int = 0

    def append(self, batch: Batch) -> None:
        """Note a batch. One of an id that was given before takes its place."""
        del self.batches[self.at(batch.first_id) :]
        self.batches.append(batch)

    def at(self, first_id: int) -> int:
        """Return where in `batches` the one with this id is, or would be."""
        return bisect_left(self.batches, first_id, key=_first_id)

    def copy(self) -> LogFacts:
        """Return what is known now."""
        return LogFacts(self.batches.copy(), self.told_to, self.kept_from)


@dataclass(slots=True)
class Facts:
    """What is known of everything.

    Attributes:
        values: What was answered.
        asked: Changes without an answer.
        uploads: By id.
        logs: By id.
        taken: (object, sink) pairs that a sink may have taken: that is never synced.
        trims: How many trims are under way.
        killed: Whether the last crash lost nothing that was written.
        opened: Whether the store was compared with the facts since.
        faulted: Whether the disk failed since the store was opened.
    """

    values: dict[Key, object] = field(default_factory=dict)
    asked: list[Change] = field(default_factory=list)
    uploads: dict[str, UploadFacts] = field(default_factory=dict)
    logs: dict[str, LogFacts] = field(default_factory=dict)
    taken: set[tuple[str, str]] = field(default_factory=set)
    trims: int = 0
    killed: bool = False
    faulted: bool = False
    opened: bool = False

    def copy(self) -> Facts:
        """Return what is known now."""
        return Facts(
            self.values.copy(),
            self.asked.copy(),
            {name: upload.copy() for name, upload in self.uploads.items()},
            {name: log.copy() for name, log in self.logs.items()},
            self.taken.copy(),
            self.trims,
            self.killed,
            self.faulted,
            self.opened,
        )

    def value(self, *key: str) -> object:
        """Return what was answered last."""
        return self.values.get(key, GONE)

    def ask(self, values: dict[Key, object]) -> Change:
        """Note a change that is asked for."""
        change = Change(values)
        self.asked.append(change)
        return change

    def answer(self, change: Change, **found: object) -> None:
        """Note that a change was made, with what SOME of its values are."""
        self.asked.remove(change)
        for key, value in change.values.items():
            self.values[key] = found["found"] if value is SOME else value

    def lose_power(self) -> None:
        """Note that what was only written may be gone."""
        for upload in self.uploads.values():
            if not upload.synced:
                upload.told.clear()

    def keys(self) -> set[Key]:
        """Return all that there is a fact of."""
        return {*self.values, *(key for each in self.asked for key in each.values)}

    def compare(self, observed: Mapping[Key, object]) -> None:
        """Check what was observed.

        Raises:
            Violation: It is not what was answered, or half of what was asked for.
        """
        changing = {key for change in self.asked for key in change.values}
        for key, value in self.values.items():
            if key in observed and key not in changing:
                self._check(key, observed[key], value)
        for change in self.asked:
            seen = {key: observed[key] for key in change.values if key in observed}
            old = all(self._same(key, seen[key], self.value(*key)) for key in seen)
            new = all(self._same(key, seen[key], change.values[key]) for key in seen)
            if not old and not new:
                before = {key: self.value(*key) for key in seen}
                raise Violation(
                    f"half done: {seen}, which was {before} and was to be"
                    f" {change.values}"
                )

    def settle(self, observed: Mapping[Key, object]) -> None:
        """Take what was observed for what is known from now on."""
        self.asked = [
            change
            for change in self.asked
            if not change.values.keys() <= observed.keys()
        ]
        self.values.update(observed)
        for key, value in observed.items():
            if key[0] == "log" and value != GONE:
                self.know_log(str(value))

    def know_log(self, log_id: str) -> None:
        """Note that there is a log, unless that is known."""
        self.logs.setdefault(log_id, LogFacts())
        for kind, value in (("sealed", None), ("kinds", ()), ("keep", (None, None))):
            self.values.setdefault((kind, log_id), value)

    def _check(self, key: Key, seen: object, value: object) -> None:
        if not self._same(key, seen, value):
            raise Violation(f"{key} is {seen!r} and has to be {value!r}")

    def _same(self, key: Key, seen: object, value: object) -> bool:
        if value is SOME:
            return seen != GONE
        if key[0] == "outcome" and seen == GONE and value is None:
            # An upload that nothing was stored of is no promise.
            upload = self.uploads.get(key[1])
            return upload is None or not (upload.synced and upload.told)
        return seen == value


def _first_id(batch: Batch) -> int:
    return batch.first_id

"""Checking the records of a log's segments, one after the other."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ackline.proto.batches import parse_batch
from ackline.proto.errors import ProtocolViolation
from ackline.server.stores.batches import CHECKPOINT, HEADER_SIZE, parse_header
from ackline.server.stores.files import read_into
from ackline.server.stores.logrecovery import later_group
from ackline.server.stores.publishers import Publishers
from ackline.server.stores.segments import RecordReader, opened

if TYPE_CHECKING:
    from ackline.proto.batches import Batch
    from ackline.proto.proofs import ProofSum
    from ackline.server.maintenance.findings import Report
    from ackline.server.stores.batches import RecordHeader
    from ackline.server.stores.entities import PublisherState
    from ackline.server.stores.files import Files
    from ackline.server.stores.segments import Segment

__all__ = ["SegmentCheck", "Tail", "Verdict"]

#: Publishers that a server remembers of one log; see `StorageOptions`.
_PUBLISHERS = 100_000

#: Longest header with a name.
_LONGEST_HEADER = HEADER_SIZE + 2**16


class Verdict(Enum):
    """What it means that the end of a segment cannot be read."""

    CUT_SHORT = "a write that was cut short, and so never acknowledged"
    UNCLEAR = (
        "its last write cannot be read: a power cut interrupted it, or it was"
        " acknowledged"
    )
    DAMAGED = "it cannot be read, and later records are there"


class Tail(NamedTuple):
    """What cannot be read at the end of a segment.

    Attributes:
        offset: Where it begins.
        verdict: What that means.
    """

    offset: int
    verdict: Verdict


class _Wrong(Exception):  # noqa: N818 - not a defect of this program
    """A record that is as it was written, and does not belong where it is."""


class SegmentCheck:
    """Follows a log from segment to segment.

    `check` them in order; what a record says of what came before is compared with that.

    Attributes:
        next_id: Id after the last event.
    """

    def __init__(self, files: Files, salt: int, *, kinds: int, report: Report) -> None:
        self.next_id = 0
        self._files = files
        self._salt = salt
        self._kinds = kinds
        self._report = report
        self._begun = False
        self._sums: ProofSum | None = None
        self._time = 0
        self._group = 0
        self._publishers = Publishers(_PUBLISHERS)

    def check(self, segment: Segment, where: str, remedy: str) -> Tail | None:
        """Check one segment; return what cannot be read at its end, if anything.

        Raises:
            OSError: It cannot be read.
        """
        self._group = 0
        if segment.first_id != self.next_id:  # nothing is known of what came before
            self.next_id = segment.first_id
            self._begun, self._sums = False, None
        report = self._report
        with opened(self._files, segment.path, os.O_RDONLY) as fd:
            self._files.drop_cache(fd)  # it is the disk that is to be read
            reader = RecordReader(
                self._files, fd, salt=self._salt, offset=0, end=segment.size
            )
            at = 0
            while at < segment.size or not segment.size:
                header = reader.header()
                payload = None if header is None else reader.payload(header)
                if header is None or payload is None:
                    report.read(segment.size - at)
                    return self._tail(fd, segment, at)
                try:
                    self._take(header, payload, at)
                except _Wrong as wrong:
                    report.damaged(where, f"at byte {at}: {wrong}", remedy)
                    # What follows is compared with this one.
                    self._accept(header)
                report.read(reader.offset - at)
                at = reader.offset
        return None

    def _take(self, header: RecordHeader, payload: bytes, at: int) -> None:
        """Compare a record with all before it.

        Raises:
            _Wrong: It does not follow.
        """
        _expect((header.kind == CHECKPOINT) == (at == 0), "a checkpoint begins a file")
        _expect(header.first_id == self.next_id, f"event {self.next_id} is missing")
        _expect(header.group in (self._group, at), "its group began elsewhere")
        _expect(header.time >= self._time, "its time is before that of the one before")
        if self._sums is not None:
            _expect(header.sums_before == self._sums, "the sums before it are others")
        if header.kind == CHECKPOINT:
            self._compare_publishers(payload)
        else:
            self._take_batch(header, payload)
        self._accept(header)

    def _accept(self, header: RecordHeader) -> None:
        self._begun = True
        self.next_id = header.next_id
        self._group = header.group
        self._time = header.time
        self._sums = header.sums_after
        if header.kind != CHECKPOINT:
            self._report.counts["events"] += header.count
            self._publishers.put(header.publisher, header.publisher_state())

    def _take_batch(self, header: RecordHeader, payload: bytes) -> None:
        batch = _parsed(header, payload)
        _expect(batch.count == header.count, "it covers another number of events")
        entries, bodies = batch.proof_parts()
        kinds = bytes(entries[::4])
        _expect(max(kinds, default=0) <= self._kinds, "a kind of it has no name")
        _expect(
            header.sums_before.extended(entries, bodies) == header.sums_after,
            "the sums after it are others",
        )
        state = self._publishers.find(header.publisher)
        if state is None:
            return
        _expect(header.epoch >= state.epoch, "its publisher had a newer epoch")
        _expect(
            header.first_unit == state.position,
            f"unit {state.position} of its publisher is missing",
        )
        sums, stated = state.sums.extended(entries, bodies), header.publisher_sums
        if any(kinds):  # the publisher may number them otherwise
            sums = msgspec.structs.replace(sums, lengths_crc=stated.lengths_crc)
        _expect(sums == stated, "the sums of its publisher are others")

    def _compare_publishers(self, payload: bytes) -> None:
        """Compare a checkpoint with the publishers as the records left them."""
        noted = Publishers(_PUBLISHERS)
        try:
            noted.restore(payload)
        except msgspec.MsgspecError:
            raise _Wrong("it is no list of publishers") from None
        if self._begun and len(noted) < _PUBLISHERS:
            for name, state in self._publishers.items():
                _expect(
                    _same(noted.find(name), state),
                    f"publisher {name!r} is another than its records say",
                )
        self._publishers = noted

    def _tail(self, fd: int, segment: Segment, at: int) -> Tail:
        """Tell a write that was cut short from damage."""
        if later_group(self._files, fd, segment, self._salt, at):
            return Tail(at, Verdict.DAMAGED)
        size = segment.size - at
        start = memoryview(bytearray(min(size, _LONGEST_HEADER)))
        read_into(self._files, fd, start, at)
        parsed = parse_header(start, self._salt) if size >= HEADER_SIZE else None
        cut = size < HEADER_SIZE or (
            parsed is not None and parsed[1] + parsed[0].payload_length > size
        )
        if cut or self._is_zero(fd, at, segment.size):
            return Tail(at, Verdict.CUT_SHORT)
        return Tail(at, Verdict.UNCLEAR)

    def _is_zero(self, fd: int, offset: int, end: int) -> bool:
        buffer = memoryview(bytearray(2**20))
        while offset < end:
            part = buffer[: min(len(buffer), end - offset)]
            if any(part[: read_into(self._files, fd, part, offset)]):
                return False
            offset += len(part)
        return True


def _parsed(header: RecordHeader, payload: bytes) -> Batch:
    try:
        return parse_batch(header.first_id, payload, special=False)
    except ProtocolViolation:
        pass
    try:
        return parse_batch(header.first_id, payload, special=True)
    except ProtocolViolation as violation:
        raise _Wrong(f"it is no batch: {violation.text}") from None


def _same(noted: PublisherState | None, state: PublisherState) -> bool:
    """Tell whether a checkpoint has what records say; epochs may be newer there."""
    return (
        noted is not None
        and noted.epoch >= state.epoch
        and noted._replace(epoch=state.epoch) == state
    )


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise _Wrong(problem)

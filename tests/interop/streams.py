"""One class for each use of a stream, written from SPEC.md and nothing else (§8, §9).

`allowance` (data frames) and `acking` let a test stop a stream at an exact place.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from .codec import (
    ERRORS,
    LAST,
    MIN_PAYLOAD,
    REWIND,
    Event,
    Fields,
    Frame,
    ProtocolError,
    Tally,
    crc32c,
    decode_events,
    encode_events,
    need,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .minimal import Client

PATIENCE = 10.0


def refusal(fields: Fields) -> ProtocolError:
    """Return what an ERROR, RESUMED or ResumedStream says."""
    return ProtocolError(ERRORS.get(fields["code"], "internal_error"), fields["text"])


def raised(
    limit: tuple[int, int], fields: Fields, by: str = "limit"
) -> tuple[int, int]:
    """Return limits that do not go down."""
    return max(limit[0], fields[f"{by}_units"]), max(limit[1], fields[f"{by}_bytes"])


def limits(taken: tuple[int, int], window: tuple[int, int]) -> Fields:
    """Return the limits of a window that begins after what was taken."""
    return {"limit_units": taken[0] + window[0], "limit_bytes": taken[1] + window[1]}


class Stream:
    """What the four uses share."""

    use = 0
    allowance: float = math.inf
    generation = position = 0
    paused = False
    opened: Fields | None = None
    outcome: Fields | None = None
    failure: ProtocolError | None = None

    def __init__(self, client: Client, resource: str, **fields: Any) -> None:
        self.client, self.stream_id = client, client.next_id
        client.next_id += 1
        client.streams[self.stream_id] = self
        self.errors: list[str] = []
        fields = {"key": "", "window_units": 0, "window_bytes": 0, **fields}
        client.send("OPEN", self.stream_id, use=self.use, resource=resource, **fields)

    def wait(self, done: Callable[[], object], patience: float = PATIENCE) -> None:
        """Read and send until `done`; raise if the stream failed."""
        self.client.wait(lambda: self.failure or done(), patience)
        if self.failure:
            raise self.failure

    def wait_opened(self) -> Fields:
        """Return OPENED."""
        self.wait(lambda: self.opened)
        assert self.opened is not None
        return self.opened

    def finish(self, patience: float = PATIENCE) -> Fields:
        """Send and receive to the end, release the stream and return its outcome."""
        self.wait(lambda: (self.outcome or {}).get("outcome"), patience)
        assert self.outcome is not None
        self.release()
        return self.outcome

    def release(self) -> None:
        """Tell the server that this stream will not be asked for again."""
        self.client.send("RELEASE", self.stream_id)
        del self.client.streams[self.stream_id]

    def cancel(self, scope: int = 0) -> None:
        """End the stream, or with scope 1 the work behind it."""
        self.allowance = 0
        self.client.send("CANCEL", self.stream_id, scope=scope)

    def resume(self) -> Fields:
        """Return the ResumeStream of a sender (§8.2)."""
        entry: Fields = {"stream_id": self.stream_id, "generation": self.generation}
        entry |= {"position": self.position, "held": 0, "held_crc": 0, "proof": None}
        return {**entry, "window_units": 0, "window_bytes": 0}

    def resumed(self, entry: Fields) -> None:
        """Go on where the server says."""
        self.opened = self.opened or {}  # it was lost and does not come again
        standing = entry["standing"] or {"outcome": None}
        self.outcome = standing["outcome"]
        if entry["code"] and self.outcome is None:
            self.failure = refusal(entry)
        elif self.outcome is None:
            self.attach(standing)

    def attach(self, standing: Fields) -> None:
        """Begin an attachment."""

    def step(self) -> bool:
        """Send one data frame if the windows allow; say whether."""
        return False

    def take(self, frame: Frame) -> None:
        """Take a frame that the server sent on this stream."""
        handler = getattr(self, f"on_{frame.name.lower()}", None)
        need(handler, f"{frame.name} on use {self.use}", "wrong_state")
        handler(frame, frame.fields(self.use))  # type: ignore[misc]

    def on_opened(self, _frame: Frame, fields: Fields) -> None:
        self.opened, standing = fields, fields["standing"]
        self.generation, self.outcome = standing["generation"], standing["outcome"]
        if self.outcome is None:
            self.attach(standing)

    def on_pause(self, _frame: Frame, fields: Fields) -> None:
        self.paused = fields["paused"]

    def on_outcome(self, _frame: Frame, fields: Fields) -> None:
        self.outcome = fields

    def on_error(self, _frame: Frame, fields: Fields) -> None:
        """Fail; only a conflict of checksums leaves the stream as it is (§13)."""
        error = refusal(fields)
        self.errors.append(error.code)
        if error.code != "checksum_conflict":
            self.failure = error


class Sender(Stream, ABC):
    """A stream that this client sends on, from `unit` and its byte `held`."""

    unit = held = fragment = log_position = reserved = 0
    begun = ended = closing = verified = early = False
    retry_at = 0.0
    ranges: Any = ()
    used = limit = (0, 0)

    def attach(self, standing: Fields) -> None:
        self.paused = standing["paused"]
        self.limit = raised(self.limit if self.early else (0, 0), standing)
        self.ranges = standing["ranges"]
        if not self.early:  # what was sent before OPENED belongs to this attachment
            need(standing["position"] >= self.position, "lower", "position_lost")
            self.used, self.reserved = (0, 0), 0
            self.begun = self.ended = False
            self.unit, self.held, self.fragment = (
                standing["position"],
                standing["held"],
                0,
            )
            self.check(standing)
        self.early, self.position = False, standing["position"]

    def check(self, standing: Fields) -> None:
        """Compare the server's proof with what this side has (§15)."""
        if mine := standing["proof"] and self.proof(standing):
            if mine != standing["proof"]:
                self.cancel()
                self.failure = ProtocolError("proof_mismatch", str(mine))
            self.verified = True

    @abstractmethod
    def proof(self, standing: Fields) -> Fields | None:
        """Return the proof up to the server's position, if this side has all of it."""

    def room(self) -> tuple[int, int]:
        """Return the units and bytes that may be begun now."""
        if self.paused or self.client.leaving or time.monotonic() < self.retry_at:
            return 0, 0
        mine, shared = self.limit, self.client.window
        spent, all_spent = self.used, self.client.used
        units = min(mine[0] - spent[0], shared[0] - all_spent[0])
        return units, min(mine[1] - spent[1], shared[1] - all_spent[1])

    def spend(self, units: int, size: int) -> None:
        """Take from both windows."""
        self.used = (self.used[0] + units, self.used[1] + size)
        self.client.used = (self.client.used[0] + units, self.client.used[1] + size)

    def on_ack(self, frame: Frame, fields: Fields) -> None:
        self.position = max(self.position, frame.sequence)
        self.ranges, self.log_position = fields["ranges"], fields["log_position"]
        self.retry_at = time.monotonic() + fields["retry_after"]
        self.limit = raised(self.limit, fields)
        if frame.flags & REWIND:
            self.give_up()
            self.unit, self.held, self.fragment = self.position, 0, 0
            self.begun = self.ended = False

    def give_up(self) -> None:
        """Free what was reserved for the rest of the chunk (§12)."""
        self.spend(0, -self.reserved)
        self.reserved = 0

    def cancel(self, scope: int = 0) -> None:
        self.give_up()
        super().cancel(scope)

    def on_outcome(self, frame: Frame, fields: Fields) -> None:
        self.give_up()
        super().on_outcome(frame, fields)

    def send_data(self, name: str, flags: int, payload: bytes) -> None:
        self.allowance -= 1
        columns = (flags, self.fragment, self.stream_id, self.unit, payload)
        self.client.send_raw(name, *columns)

    def send_end(self, **fields: Any) -> bool:
        """Send END once an attachment, unless it is acknowledged."""
        if self.ended or not self.closing or self.position > self.unit:
            return False
        self.ended = True
        fields = {"intent": 1, "code": 0, "text": "", **fields}
        self.client.send("END", self.stream_id, self.unit, **fields)
        return True


class Upload(Sender):
    """An object on its way to the server."""

    use, closing = 1, True

    def __init__(
        self, client: Client, resource: str, data: bytes, detail: Fields, **fields: Any
    ) -> None:
        self.data = data
        self.chunk_size: int = detail["chunk_size"]
        self.early = detail.get("early", False)
        if self.early:
            self.limit = raised((0, 0), client.welcome["limits"], "initial")
        super().__init__(client, resource, detail=detail, **fields)

    def on_opened(self, frame: Frame, fields: Fields) -> None:
        self.chunk_size = fields["detail"]["chunk_size"]
        super().on_opened(frame, fields)

    def proof(self, standing: Fields) -> Fields | None:
        tally, size = Tally(), self.chunk_size
        held = self.data[standing["position"] * size :][: standing["held"]]
        need(crc32c(held) == standing["held_crc"], "held", "proof_mismatch")
        for index in range(min(standing["proof"]["position"], self.units())):
            tally.add(self.data[index * size :][:size])
        return dict(vars(tally))

    def units(self) -> int:
        return -(-len(self.data) // self.chunk_size)

    def step(self) -> bool:
        if self.allowance <= 0 or not (self.opened or self.early):
            return False
        while not self.begun and any(a <= self.unit < b for a, b in self.ranges):
            self.unit, self.held = self.unit + 1, 0
        if self.unit >= self.units():
            return self.send_end(size=len(self.data), crc=crc32c(self.data))
        rest = self.data[self.unit * self.chunk_size :][: self.chunk_size][self.held :]
        if not self.begun:
            room = self.room()
            if room[0] < 1 or room[1] < len(rest):
                return False
            self.spend(1, len(rest))
            self.begun, self.reserved = True, len(rest)
        piece = rest[:MIN_PAYLOAD]
        self.send_data("CHUNK", LAST * (len(piece) == len(rest)), piece)
        self.fragment, self.held = self.fragment + 1, self.held + len(piece)
        self.reserved -= len(piece)
        if len(piece) == len(rest):
            self.unit, self.held, self.fragment, self.begun = self.unit + 1, 0, 0, False
        return True


class Publisher(Sender):
    """Records on their way into a log; `records` begins at unit `first`."""

    use, first = 3, 0

    def __init__(
        self, client: Client, resource: str, kinds: list[str], **f: Any
    ) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.early = not f.get("key")
        if self.early:
            self.limit = raised((0, 0), client.welcome["limits"], "initial")
        super().__init__(client, resource, detail={"kinds": kinds}, **f)

    def on_opened(self, frame: Frame, fields: Fields) -> None:
        self.first = fields["standing"]["position"]
        self.log_position = fields["detail"]["log_position"]
        super().on_opened(frame, fields)

    def proof(self, standing: Fields) -> Fields | None:
        if self.first:
            return None  # what another process published is not known here
        tally = Tally()
        for kind, body in self.records[: standing["proof"]["position"]]:
            tally.add(body, kind)
        return dict(vars(tally))

    def step(self) -> bool:
        if self.allowance <= 0 or not (self.opened or self.early):
            return False
        units, size = self.room()
        size, batch = min(size, MIN_PAYLOAD) - 4, list[tuple[int, bytes]]()
        for record in self.records[self.unit - self.first :][: min(units, 20)]:
            size -= 4 + len(record[1])
            if size < 0:
                break
            batch.append(record)
        if not batch:
            waiting = self.unit - self.first < len(self.records)
            return not waiting and self.send_end(size=self.unit)
        payload = encode_events(batch)
        self.spend(len(batch), len(payload))
        self.send_data("EVENTS", 0, payload)
        self.unit += len(batch)
        return True


class Receiver(Stream, ABC):
    """A stream that the server sends on."""

    acking = True
    taken = (0, 0)
    data = b""
    verified: bool | None = None
    end: Fields | None = None

    def __init__(
        self, client: Client, resource: str, window: tuple[int, int], **fields: Any
    ) -> None:
        self.window = window
        names = {"window_units": window[0], "window_bytes": window[1]}
        super().__init__(client, resource, **names, **fields)

    @abstractmethod
    def proof(self) -> Fields:
        """Return the proof up to `position`."""

    def held(self) -> bytes:
        """Return what is there of the chunk `position`."""
        return b""

    def resume(self) -> Fields:
        entry = {**super().resume(), "held": len(self.held())}
        entry |= {"held_crc": crc32c(self.held()), "proof": self.proof()}
        return {**entry, "window_units": self.window[0], "window_bytes": self.window[1]}

    def resumed(self, entry: Fields) -> None:
        self.verified = (entry["standing"] or {}).get("verified")
        super().resumed(entry)

    def attach(self, standing: Fields) -> None:
        self.taken = (0, 0)

    def ack(self) -> None:
        """Tell what is here, and give the window back."""
        position = self.position + (self.end is not None)
        fields = {**limits(self.taken, self.window), "consumed": position}
        self.client.send("ACK", self.stream_id, position, **fields, durability=0)

    def took(self, units: int, size: int) -> None:
        self.taken = (self.taken[0] + units, self.taken[1] + size)

    def on_end(self, frame: Frame, fields: Fields) -> None:
        need(frame.sequence == self.position, "END is out of place")
        self.end = fields
        self.check_end(fields)
        if self.acking:
            self.ack()

    def check_end(self, fields: Fields) -> None:
        """Compare END with what was received."""


class Fetch(Receiver):
    """An object on its way here, of which `data` may be here already."""

    use, fragment = 2, 0

    def __init__(
        self,
        client: Client,
        resource: str,
        chunk_size: int,
        data: bytes = b"",
        **f: Any,
    ) -> None:
        self.chunk_size, self.data = chunk_size, data
        self.position = len(data) // chunk_size
        detail = {"chunk_size": chunk_size, **f.pop("detail", {})}
        if data:
            detail |= {"position": self.position, "held": len(self.held())}
            detail |= {"held_crc": crc32c(self.held()), "proof": self.proof()}
        super().__init__(client, resource, detail=detail, **f)

    def held(self) -> bytes:
        return self.data[self.position * self.chunk_size :]

    def proof(self) -> Fields:
        whole = self.data[: self.position * self.chunk_size]
        names = {"base": 0, "position": self.position, "bytes": len(whole)}
        return {**names, "lengths_crc": 0, "bodies_crc": crc32c(whole)}

    def attach(self, standing: Fields) -> None:
        super().attach(standing)
        self.fragment, self.position = 0, standing["position"]
        end = self.position * self.chunk_size + standing["held"]
        chunks = -(-len(self.data) // self.chunk_size)
        need(self.position <= chunks, "the server goes on too far ahead")
        self.data = self.data[:end]

    def on_chunk(self, frame: Frame, _fields: Fields) -> None:
        expected = (self.position, self.fragment)
        need((frame.sequence, frame.fragment) == expected, "CHUNK is out of place")
        self.took(not frame.fragment, len(frame.payload))
        self.data += frame.payload
        self.fragment += 1
        need(len(self.held()) <= self.chunk_size, "a chunk is too long")
        if frame.flags & LAST:
            self.position, self.fragment = self.position + 1, 0
            if self.acking:
                self.ack()

    def check_end(self, fields: Fields) -> None:
        need(fields["size"] == len(self.data), "END", "size_mismatch")
        need(fields["crc"] == crc32c(self.data), "END", "digest_mismatch")


class Subscription(Receiver):
    """A cursor on a log or a run."""

    use = 4

    def __init__(self, client: Client, resource: str, start: Fields, **f: Any) -> None:
        self.kinds: list[str] = []
        self.events: list[Event] = []
        self.tally = Tally()
        super().__init__(client, resource, detail=start, **f)

    def proof(self) -> Fields:
        return dict(vars(self.tally))

    def attach(self, standing: Fields) -> None:
        super().attach(standing)
        self.kinds = list(standing["kinds"])
        if not self.events:
            self.tally = Tally(standing["position"])
        need(not self.events or standing["position"] == self.position, "another place")
        self.position = standing["position"]

    def on_events(self, frame: Frame, _fields: Fields) -> None:
        need(frame.sequence == self.position, "EVENTS is out of place")
        events, self.position = decode_events(frame, self.kinds)
        for event in events:
            if event.kind == 255:
                self.tally = Tally(event.event_id + event.size)
            else:
                self.tally.add(event.body, event.kind)
        self.events += events
        self.took(int.from_bytes(frame.payload[:4]), len(frame.payload))
        if self.acking:
            self.ack()

    def check_end(self, fields: Fields) -> None:
        need(fields["size"] == sum(e.size for e in self.events), "END", "size_mismatch")

"""The worked examples as they stand in SPEC.md §23."""

from __future__ import annotations

import re

from ackline.proto.batches import Event, Gap, KindTable, parse_batch
from ackline.proto.checksums import crc32c
from ackline.proto.frames import SPECIAL, FrameType, Header, decode_frame
from ackline.proto.messages import (
    PAYLOADS,
    Ack,
    End,
    GapReason,
    Hello,
    Intent,
    Open,
    Opened,
    Outcome,
    OutcomeKind,
    UploadDetail,
    UploadOpened,
    Use,
    Welcome,
    decode,
    open_detail,
    opened_detail,
)
from vectors import examples

SPEC = examples.SPEC.read_text(encoding="utf-8")

Frame = tuple[str, Header, bytes]


def printed() -> str:
    return SPEC.partition(examples.BEGIN)[2].partition(examples.END)[0]


def frames() -> list[Frame]:
    """Return side, header and payload of every frame in SPEC.md, in order."""
    found: list[Frame] = []
    block = r"(client|server) > (?:client|server): (\w+)\n((?:[0-9a-f ]{48}\|.*\n)+)"
    for side, name, lines in re.findall(block, printed()):
        digits = "".join(line.partition("|")[0] for line in lines.splitlines())
        decoded = decode_frame(bytes.fromhex(digits))
        assert decoded is not None
        header, payload, rest = decoded
        assert rest == b""
        assert FrameType(header.type).name == name
        found.append((side, header, payload))
    return found


def of_stream(stream_id: int, type_: FrameType) -> list[tuple[Header, bytes]]:
    return [
        (header, payload)
        for _, header, payload in frames()
        if header.stream_id == stream_id and header.type == type_
    ]


def test_spec_prints_what_the_script_writes() -> None:
    assert printed() == examples.examples()


def test_writing_the_examples_again_changes_nothing() -> None:
    assert examples.rewritten(SPEC) == SPEC


def test_every_line_of_digits_belongs_to_a_frame() -> None:
    lines = [line for line in printed().splitlines() if "|" in line]
    digits = "".join(line.partition("|")[0] for line in lines)
    total = sum(24 + header.length for _, header, _ in frames())
    assert len(bytes.fromhex(digits)) == total


def test_every_payload_is_the_message_of_its_frame() -> None:
    uses: dict[int, Use] = {}
    for _, header, payload in frames():
        message_type = PAYLOADS.get(FrameType(header.type))
        if message_type is None:
            continue
        message = decode(message_type, payload)
        if isinstance(message, Open):
            uses[header.stream_id] = message.use
            open_detail(message)
        elif isinstance(message, Opened):
            opened_detail(uses[header.stream_id], message)
    assert list(uses.values()) == list(Use)


def test_handshake_comes_first() -> None:
    (client, hello, first), (server, welcome, second) = frames()[:2]
    assert (client, hello.type) == ("client", FrameType.HELLO)
    assert (server, welcome.type) == ("server", FrameType.WELCOME)
    assert decode(Hello, first).version == decode(Welcome, second).version == 1


def test_every_stream_is_completed_after_an_acknowledged_end() -> None:
    for stream_id in (1, 2, 3, 4):
        (end, end_payload), *_ = of_stream(stream_id, FrameType.END)
        acked, ack_payload = of_stream(stream_id, FrameType.ACK)[-1]
        (outcome, outcome_payload), *_ = of_stream(stream_id, FrameType.OUTCOME)
        assert decode(End, end_payload).intent is Intent.COMPLETED
        assert acked.sequence == end.sequence + 1
        assert decode(Ack, ack_payload).consumed == acked.sequence
        decided = decode(Outcome, outcome_payload)
        assert decided.outcome is OutcomeKind.COMPLETED
        assert decided.position == outcome.sequence == end.sequence


def test_upload_and_fetch_carry_the_ten_bytes() -> None:
    for stream_id in (1, 2):
        chunks = of_stream(stream_id, FrameType.CHUNK)
        data = b"".join(payload for _, payload in chunks)
        end = decode(End, of_stream(stream_id, FrameType.END)[0][1])
        assert data == b"Hello you\n"
        assert (end.size, end.crc) == (len(data), crc32c(data))
        assert [header.flags for header, _ in chunks][-1] == 1
    opened = decode(Open, of_stream(1, FrameType.OPEN)[0][1])
    detail = open_detail(opened)
    assert isinstance(detail, UploadDetail)
    assert detail.early
    answer = decode(Opened, of_stream(1, FrameType.OPENED)[0][1])
    assert opened_detail(Use.UPLOAD, answer) == UploadOpened(detail.chunk_size)


def events(stream_id: int, kinds: KindTable) -> list[Event | Gap]:
    ((header, payload),) = of_stream(stream_id, FrameType.EVENTS)
    special = bool(header.flags & SPECIAL)
    return parse_batch(header.sequence, payload, special=special).events(kinds)


def test_publish_carries_two_lines() -> None:
    assert events(3, KindTable(["info"])) == [
        Event(0, "", b"start"),
        Event(1, "info", b"ready"),
    ]
    positions = [
        decode(Ack, payload).log_position for _, payload in of_stream(3, FrameType.ACK)
    ]
    assert positions == [102, 102]


def test_subscribe_carries_three_tokens_and_a_gap() -> None:
    found = events(4, KindTable())
    assert found == [
        Event(0, "token", b"Good"),
        Gap(1, 2, GapReason.DROPPED),
        Event(3, "token", b" day"),
        Event(4, "token", b"!"),
    ]
    end = decode(End, of_stream(4, FrameType.END)[0][1])
    counts = [each.count if isinstance(each, Gap) else 1 for each in found]
    assert sum(counts) == end.size

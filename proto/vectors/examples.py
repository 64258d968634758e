#!/usr/bin/env python3
"""Write the worked examples into SPEC.md §23, between their markers.

Run it as `python -m vectors.examples`. The bytes come from `vectors.reference`, and a
test decodes them as they stand in SPEC.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from vectors.reference import (
    TYPES,
    Fields,
    Map,
    Value,
    crc32c,
    definition,
    entry,
    gap,
    header,
    pack,
)

__all__ = ["BEGIN", "END", "SPEC", "examples", "rewritten"]

SPEC = Path(__file__).parents[2] / "SPEC.md"
BEGIN = "<!-- examples: written by proto/vectors/examples.py -->\n"
END = "<!-- end of examples -->\n"

#: Bytes of hexadecimal digits in a line, and the digits' width with spaces.
_BYTES = 16
_WIDTH = 3 * _BYTES

_TEXT = b"Hello you\n"
_TIME = 1_700_000_000.0

#: Hexadecimal digits and what they mean; no meaning for a continued line.
_Line = tuple[str, str]


def examples() -> str:
    """Return what stands between the markers."""
    sections = (_handshake(), _upload(), _fetch(), _publish(), _subscribe(), _goodbye())
    return "\n" + "\n".join(sections)


def _handshake() -> str:
    limits: Fields = {
        "max_payload": 262_144,
        "max_chunk_size": 2**24,
        "max_streams": 0,
        "window_units": 65_536,
        "window_bytes": 2**25,
        "initial_units": 0,
        "initial_bytes": 0,
        "heartbeat": 10.0,
    }
    server: Fields = {
        **limits,
        "max_streams": 10_000,
        "initial_units": 64,
        "initial_bytes": 65_536,
    }
    hello: Fields = {
        "version": 1,
        "oldest": 1,
        "scheme": "",
        "credential": b"",
        "agent": "example/1",
        "resume": False,
        "limits": limits,
    }
    welcome: Fields = {
        "version": 1,
        "agent": "server/1",
        "identity": "",
        "limits": server,
        "session": {"session_id": "s-1", "token": bytes(range(16)), "epoch": 1},
    }
    return _section(
        "23.1 Handshake",
        "The client is anonymous and asks for a new session. Trailing fields that have"
        " their defaults are left out, here and below.",
        _message("C", "HELLO", hello),
        _message("S", "WELCOME", welcome),
    )


def _upload() -> str:
    opened: Fields = {
        "use": 1,
        "resource": "objects/hi.txt",
        "key": "k1",
        "window_units": 0,
        "window_bytes": 0,
        "detail": {
            "chunk_size": 1_024,
            "size": len(_TEXT),
            "algorithm": "crc32c",
            "digest": b"",
            "existing": 0,
            "durability": 2,
            "early": True,
        },
    }
    return _section(
        "23.2 Upload",
        "Ten bytes, one chunk, here in two fragments. OPEN says `early`, so data and"
        " END follow at once: one round trip. The server acknowledges the chunk and END"
        " with one ACK, after the commit.",
        _message("C", "OPEN", opened, stream_id=1),
        _chunk("C", _TEXT[:6], stream_id=1),
        _chunk("C", _TEXT[6:], stream_id=1, fragment=1, flags=1),
        _message("C", "END", _end(len(_TEXT), crc32c(_TEXT)), stream_id=1, sequence=1),
        _message(
            "S",
            "OPENED",
            {
                "existing": False,
                "id": "uploads/u-1",
                "durability": 2,
                "standing": _standing(64, 2**20),
                "detail": {"chunk_size": 1_024},
            },
            stream_id=1,
        ),
        _message("S", "ACK", _ack(64, 2**20, 2, 2), stream_id=1, sequence=2),
        _message("S", "OUTCOME", _outcome(1, _object()), stream_id=1, sequence=1),
        _release(1),
    )


def _fetch() -> str:
    opened: Fields = {
        "use": 2,
        "resource": "objects/hi.txt",
        "key": "",
        "window_units": 64,
        "window_bytes": 2**20,
        "detail": {"chunk_size": 1_024},
    }
    return _section(
        "23.3 Fetch",
        "The same ten bytes back. The client grants a window in OPEN; its ACK of END"
        " decides the outcome.",
        _message("C", "OPEN", opened, stream_id=2),
        _message(
            "S",
            "OPENED",
            {
                "existing": False,
                "id": "objects/o-1",
                "durability": 0,
                "standing": _standing(0, 0),
                "detail": {
                    "chunk_size": 1_024,
                    "object": _object(),
                    "start": 0,
                    "length": len(_TEXT),
                },
            },
            stream_id=2,
        ),
        _chunk("S", _TEXT, stream_id=2, flags=1),
        _message("S", "END", _end(len(_TEXT), crc32c(_TEXT)), stream_id=2, sequence=1),
        _message("C", "ACK", _ack(65, 2**20 + 10, 2, 0), stream_id=2, sequence=2),
        _message("S", "OUTCOME", _outcome(1), stream_id=2, sequence=1),
        _release(2),
    )


def _publish() -> str:
    opened: Fields = {
        "use": 3,
        "resource": "logs/app",
        "key": "",
        "window_units": 0,
        "window_bytes": 0,
        "detail": {"kinds": ["info"]},
    }
    return _section(
        "23.4 Publish",
        "Two lines into a log, the second of kind 1. There is no `key`, so data follows"
        " OPEN at once. The log had 100 events: `log_position` goes from 100 to 102,"
        " while the publisher's own units are 0 and 1.",
        _message("C", "OPEN", opened, stream_id=3),
        _events("C", [entry(0, b"start"), entry(1, b"ready")], stream_id=3),
        _message(
            "S",
            "OPENED",
            {
                "existing": False,
                "id": "logs/app",
                "durability": 2,
                "standing": _standing(1_024, 2**20),
                "detail": {"log_position": 100},
            },
            stream_id=3,
        ),
        _message(
            "S", "ACK", _ack(1_026, 2**20 + 22, 2, 2, 102), stream_id=3, sequence=2
        ),
        _message("C", "END", _end(2), stream_id=3, sequence=2),
        _message(
            "S", "ACK", _ack(1_026, 2**20 + 22, 3, 2, 102), stream_id=3, sequence=3
        ),
        _message("S", "OUTCOME", _outcome(2), stream_id=3, sequence=2),
        _release(3),
    )


def _subscribe() -> str:
    opened: Fields = {
        "use": 4,
        "resource": "sources/chat",
        "key": "",
        "window_units": 64,
        "window_bytes": 65_536,
        "detail": {
            "start": 0,
            "value": 0,
            "policy": "drop-oldest",
            "policy_value": 2,
        },
        "parameters": Map({"prompt": "hi"}),
    }
    entries = [
        definition(1, "token"),
        entry(1, b"Good"),
        gap(2, 2),
        entry(1, b" day"),
        entry(1, b"!"),
    ]
    return _section(
        "23.5 Subscribe",
        "Three tokens of a run of five. Two were dropped because the client was slow:"
        " they are a gap in their place, and 3 received + 2 dropped = END's `size`. The"
        " kind is defined in the batch that first uses it.",
        _message("C", "OPEN", opened, stream_id=4),
        _message(
            "S",
            "OPENED",
            {
                "existing": False,
                "id": "runs/r-1",
                "durability": 0,
                "standing": _standing(0, 0),
                "detail": {"resumes": 0, "first": 0},
            },
            stream_id=4,
        ),
        _events("S", entries, stream_id=4, flags=1),
        _message("S", "END", _end(5), stream_id=4, sequence=5),
        _message("C", "ACK", _ack(69, 65_584, 6, 0), stream_id=4, sequence=6),
        _message("S", "OUTCOME", _outcome(5), stream_id=4, sequence=5),
        _release(4),
    )


def _goodbye() -> str:
    return _section(
        "23.6 Goodbye",
        "The client is done: the server ends the session.",
        _message("C", "GOAWAY", {"code": 0, "text": ""}),
    )


def _standing(limit_units: int, limit_bytes: int) -> Fields:
    return {
        "generation": 0x1122334455667788,
        "epoch": 1,
        "position": 0,
        "durable": 0,
        "limit_units": limit_units,
        "limit_bytes": limit_bytes,
    }


def _object() -> Fields:
    return {
        "object_id": "o-1",
        "name": "hi.txt",
        "version": 1,
        "size": len(_TEXT),
        "crc": crc32c(_TEXT),
        "algorithm": "crc32c",
        "digest": crc32c(_TEXT).to_bytes(4, "big"),
        "created": _TIME,
    }


def _end(size: int, crc: int | None = None) -> Fields:
    fields: Fields = {"intent": 1, "code": 0, "text": "", "size": size}
    return fields if crc is None else {**fields, "crc": crc}


def _ack(
    limit_units: int,
    limit_bytes: int,
    consumed: int,
    durability: int,
    log_position: int | None = None,
) -> Fields:
    fields: Fields = {
        "limit_units": limit_units,
        "limit_bytes": limit_bytes,
        "consumed": consumed,
        "durability": durability,
    }
    if log_position is None:
        return fields
    return {
        **fields,
        "ranges": [],
        "retry_after": 0.0,
        "code": 0,
        "log_position": log_position,
    }


def _outcome(position: int, committed: Fields | None = None) -> Fields:
    fields: Fields = {
        "outcome": 1,
        "code": 0,
        "text": "",
        "position": position,
        "decided": _TIME,
    }
    return fields if committed is None else {**fields, "object": committed}


def _section(title: str, text: str, *frames: str) -> str:
    body = "\n".join(frames)
    return f"### {title}\n\n{textwrap.fill(text, 100)}\n\n```\n{body}```\n"


def _message(
    side: str, type_: str, fields: Fields, *, stream_id: int = 0, sequence: int = 0
) -> str:
    return _frame(
        side,
        type_,
        pack(fields),
        _value("payload", fields),
        stream_id=stream_id,
        sequence=sequence,
    )


def _release(stream_id: int) -> str:
    return _frame("C", "RELEASE", b"", [], stream_id=stream_id)


def _chunk(
    side: str, data: bytes, *, stream_id: int, fragment: int = 0, flags: int = 0
) -> str:
    return _frame(
        side,
        "CHUNK",
        data,
        _digits(data, ascii(data.decode())),
        stream_id=stream_id,
        fragment=fragment,
        flags=flags,
    )


def _events(
    side: str,
    entries: list[tuple[int, bytes]],
    *,
    stream_id: int,
    flags: int = 0,
) -> str:
    count = len(entries).to_bytes(4, "big")
    lines = _digits(count, f"count {len(entries)}")
    for word, body in entries:
        meaning = f"entry: kind {word >> 24}, {len(body)} bytes"
        lines += _digits(word.to_bytes(4, "big"), meaning)
    for word, body in entries:
        lines += _digits(body, _meaning(word >> 24, body))
    words = b"".join(word.to_bytes(4, "big") for word, _ in entries)
    payload = count + words + b"".join(body for _, body in entries)
    return _frame(side, "EVENTS", payload, lines, stream_id=stream_id, flags=flags)


def _meaning(kind: int, body: bytes) -> str:
    if kind == 254:
        return f"kind {body[0]} is {body[1:].decode()!r}"
    if kind == 255:
        return f"gap: {int.from_bytes(body[:8], 'big')} events, reason {body[8]}"
    return repr(body.decode())


def _frame(
    side: str,
    type_: str,
    payload: bytes,
    lines: list[_Line],
    *,
    flags: int = 0,
    fragment: int = 0,
    stream_id: int = 0,
    sequence: int = 0,
) -> str:
    whole = header(
        TYPES[type_],
        len(payload),
        crc32c(payload),
        flags=flags,
        fragment=fragment,
        stream_id=stream_id,
        sequence=sequence,
    )
    first = [
        *_digits(
            whole[:12],
            f"{len(payload)} bytes, type 0x{TYPES[type_]:02X}, flags {flags},"
            f" fragment {fragment}, stream {stream_id}",
        ),
        *_digits(whole[12:], f"sequence number {sequence}, CRC-32C"),
    ]
    arrow = "client > server" if side == "C" else "server > client"
    text = f"{arrow}: {type_}\n"
    for digits, meaning in [*first, *lines]:
        text += f"{digits:{_WIDTH}}| {meaning}".rstrip() + "\n"
    return text


def _value(name: str, value: Value, depth: int = -1) -> list[_Line]:
    """Return the lines of a field; of a container its first byte, then what it holds.

    The containers here are small enough to have their count in that byte.
    """
    indent = "  " * max(depth, 0)
    if isinstance(value, bytes | str) or not isinstance(value, Mapping | Sequence):
        return _digits(pack(value), f"{indent}{name} {_shown(name, value)}")
    word = "map" if isinstance(value, Map) else "array"
    lines = _digits(pack(value)[:1], f"{indent}{name}: {word} of {len(value)}")
    if not isinstance(value, Mapping):
        value = {str(number): part for number, part in enumerate(value)}
    for key, part in value.items():
        if word == "map":
            lines += _digits(pack(key), f"{indent}  {_shown('', key)}")
        lines += _value("value" if word == "map" else key, part, depth + 1)
    return lines


def _shown(name: str, value: Value) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if name.endswith("crc") or name == "generation":
        return f"0x{value:X}"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower()


def _digits(data: bytes, meaning: str) -> list[_Line]:
    """Return `data` in lines of 16 bytes, the first with its meaning."""
    lines = [
        (data[at : at + _BYTES].hex(" "), "") for at in range(0, len(data), _BYTES)
    ]
    return [(lines[0][0], meaning), *lines[1:]]


def rewritten(spec: str) -> str:
    """Return the text of SPEC.md with the examples between its markers."""
    before, _, rest = spec.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + examples() + END + after


def main() -> None:
    """Write the examples into SPEC.md."""
    SPEC.write_text(rewritten(SPEC.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The bytes of the protocol, written from SPEC.md and nothing else (§3, §5, §11, §15).

It imports no part of this project and nothing outside the standard library: what it
cannot read is a hole in the document.
"""

from __future__ import annotations

import ast
import contextlib
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LAST = SPECIAL = MORE = REWIND = 0x01
MIN_PAYLOAD = 8192
HEADER = struct.Struct(">IBBHIQ")
CODES = """ok bad_frame bad_crc frame_too_large unsupported_version unknown_frame
wrong_state unknown_stream flow_control handshake_timeout peer_lost unauthenticated
too_many_connections taken_over draining internal_error overloaded limit_exceeded
@64 unknown_session token_superseded token_invalid
@80 permission_denied not_found already_exists invalid_argument too_many_streams
quota_exceeded insufficient_storage unsupported key_conflict position_trimmed
generation_changed sealed position_beyond moved
@112 cancelled_by_client cancelled_by_operator expired deadline_exceeded
checksum_conflict digest_mismatch size_mismatch source_changed source_failed
producer_lost position_lost proof_mismatch storage_failed no_consumer sink_failed"""
ERRORS: dict[int, str] = {}
for part in CODES.split("@"):
    first, *rest = part.split()
    at, names = (int(first), rest) if first.isdigit() else (0, [first, *rest])
    ERRORS |= dict(enumerate(names, at))
Fields = dict[str, Any]


class ProtocolError(Exception):
    """The protocol was broken or something refused; `code` is the name in §20."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def need(condition: object, text: str, code: str = "bad_frame") -> None:
    """Refuse what does not hold."""
    if not condition:
        raise ProtocolError(code, text)


def _step(a: int) -> int:
    return a >> 1 ^ 0x82F63B78 * (a & 1)  # 0x1EDC6F41, reflected


_TABLE = list(range(256))
for _bit in range(8):
    _TABLE = list(map(_step, _TABLE))


def crc32c(data: bytes | bytearray, crc: int = 0) -> int:
    """Continue `crc` over `data` (§3)."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _multiply(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        product ^= b * (a >> bit & 1)
        b = _step(b)
    return product


def shift(crc: int, length: int) -> int:
    """Return `crc` times x^8 for each of `length` bytes that come behind (§10)."""
    power = 0x00800000
    while length:
        crc = _multiply(crc, power) if length & 1 else crc
        power, length = _multiply(power, power), length >> 1
    return crc


def combine(first_crc: int, second_crc: int, second_length: int) -> int:
    """Return the CRC of two strings of bytes, one after the other."""
    return shift(first_crc, second_length) ^ second_crc


class Tally:
    """The numbers of a proof (§15), fed with every event or chunk in order."""

    def __init__(self, base: int = 0) -> None:
        self.base = self.position = base
        self.bytes = self.lengths_crc = self.bodies_crc = 0

    def add(self, body: bytes, kind: int | None = None) -> None:
        """Count one event of this kind, or one chunk."""
        self.position += 1
        self.bytes += len(body)
        self.bodies_crc = crc32c(body, self.bodies_crc)
        if kind is not None:
            entry = struct.pack(">I", kind << 24 | len(body))
            self.lengths_crc = crc32c(entry, self.lengths_crc)


# MessagePack: first byte to form, and its value or count or the struct of that.
FORMS: dict[int, tuple[str, Any]] = {0xC0: ("is", None), 0xC2: ("is", False)}
FORMS |= {0xC3: ("is", True)} | {0x80 | n: ("map", n) for n in range(16)}
FORMS |= {n & 0xFF: ("int", n) for n in range(-32, 128)}
FORMS |= {0x90 | n: ("array", n) for n in range(16)}
FORMS |= {0xA0 | n: ("str", n) for n in range(32)}
FORMS |= {0xD4 + n: ("ext", 2**n) for n in range(5)}
for _first, _form, _letters in [
    *((0xC4, "bin", "BHI"), (0xC7, "ext", "BHI"), (0xCA, "float", "fd")),
    *((0xCC, "int", "BHIQbhiq"), (0xD9, "str", "BHI")),
    *((0xDC, "array", "HI"), (0xDE, "map", "HI")),
]:
    FORMS |= {_first + n: (_form, ">" + x) for n, x in enumerate(_letters)}
DEPTH = 16


def _head(form: str, count: Any) -> bytes:
    for first, (each, argument) in FORMS.items():
        if each == form and argument == count:
            return bytes([first])
        if each == form and isinstance(argument, str):
            with contextlib.suppress(struct.error):
                return bytes([first]) + struct.pack(argument, count)
    raise OverflowError(count)


def pack(value: Any) -> bytes:
    """Encode MessagePack in its shortest form; a float takes 64 bits."""
    match value:
        case None | bool():
            return _head("is", value)
        case int():
            return _head("int", value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case list():
            return _head("array", len(value)) + b"".join(map(pack, value))
        case dict():
            pairs = b"".join(pack(k) + pack(v) for k, v in value.items())
            return _head("map", len(value)) + pairs
        case str():
            return _head("str", len(value.encode())) + value.encode()
    return _head("bin", len(value)) + bytes(value)


class Reader:
    """Reads MessagePack values from bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        need(count <= len(self.data), "cut short")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def value(self, depth: int = DEPTH) -> Any:
        """Return the next value; an extension, which no field is, is `...`."""
        form, argument = FORMS.get(self.take(1)[0], ("", 0))
        need(form and depth, "no form of MessagePack, or too deep")
        if isinstance(argument, str):
            data = self.take(struct.calcsize(argument))
            argument = struct.unpack(argument, data)[0]
        if form in ("is", "int", "float"):
            return argument
        if form in ("bin", "str", "ext"):
            data = self.take(argument + (form == "ext"))
            return text(data) if form == "str" else data if form == "bin" else ...
        need(argument <= len(self.data), "cut short")
        values = [
            self.value(depth - 1) for _ in range(argument * (1 + (form == "map")))
        ]
        if form == "array":
            return values
        need(all(isinstance(key, str) for key in values[::2]), "a name is no str")
        return dict(zip(values[::2], values[1::2], strict=True))


def text(data: bytes) -> str:
    """Return the str that these bytes are."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("bad_frame", str(error)) from error


def is_name(value: Any) -> bool:
    """Say whether this is a NAME (§1)."""
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 255:
        return False
    return value == value.strip(" ") and not any(c < " " or c == "\x7f" for c in value)


def parse_resource(value: str) -> tuple[str, str]:
    """Split a resource into its kind and NAME."""
    kind, _slash, name = value.partition("/")
    known = kind in ("objects", "logs", "sources", "runs", "uploads", "sessions")
    need(known and is_name(name), f"no resource: {value!r}", "invalid_argument")
    return kind, name


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_value(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value) <= 4096
    return (
        value is None
        or isinstance(value, int)
        or (isinstance(value, float) and math.isfinite(value))
    )


def _are_ranges(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 64:
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return False
    ends = [end for pair in value for end in pair]
    if not all(map(CHECKS["u64"], ends)) or ends != sorted(ends):
        return False
    return all(begin < end for begin, end in value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    **{f"u{bits}": _integer(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"{low}-{high}": _integer(low, high) for low in (0, 1) for high in range(1, 6)},
    "f64": lambda v: type(v) in (int, float) and _is_value(v) and v >= 0,
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str) and _is_value(v),
    "bin": lambda v: isinstance(v, bytes) and _is_value(v),
    "name": is_name,
    "value": _is_value,
    "ranges": _are_ranges,
    "map": lambda v: (
        isinstance(v, dict) and len(v) <= 64 and all(map(_is_value, [*v, *v.values()]))
    ),
}
MOST = {"[Entry]": 1000, "[name]": 239}
LAYOUTS = """
.. Limits: max_payload u32, max_chunk_size u32, max_streams u32, window_units u64,
    window_bytes u64, initial_units u64, initial_bytes u64, heartbeat f64
.. Session: session_id str, token bin, epoch u64
.. Proof: base u64, position u64, bytes u64, lengths_crc u32, bodies_crc u32
.. ResumeStream: stream_id u32, generation u64, position u64, held u32, held_crc u32,
    proof Proof?, window_units u64, window_bytes u64, paused bool False
.. ResumedStream: stream_id u32, code u16, text str, standing Standing?
.. Standing: generation u64, epoch u64, position u64, durable u64, limit_units u64,
    limit_bytes u64, ranges ranges [], held u32 0, held_crc u32 0, proof Proof? None,
    verified bool False, paused bool False, kinds [name] [], outcome Outcome? None,
    log_position u64 0
.. Outcome: outcome 0-3, code u16, text str, position u64, decided f64,
    object Object? None
.. Object: object_id str, name str, version u64, size u64, crc u32, algorithm str,
    digest bin, created f64, metadata map {}
.. Entry: resource str, state str, size u64, created f64, facts map,
    metadata map {}
.. OPEN1: chunk_size u32, size u64?, algorithm str 'crc32c', digest bin b'',
    existing 0-2 0, durability 0-3 2, early bool False
.. OPEN2: chunk_size u32, object_id str '', version u64 0, start u64 0,
    length u64? None, position u64 0, held u32 0, held_crc u32 0, proof Proof? None
.. OPEN3: kinds [name] []
.. OPEN4: start 0-5, value u64 0, policy str 'block', policy_value value None,
    on_trimmed 0-1 0, generation u64 0, proof Proof? None, linger f64 0.0
.. OPENED1: chunk_size u32
.. OPENED2: chunk_size u32, object Object, start u64, length u64
.. OPENED3: log_position u64
.. OPENED4: resumes 0-2, first u64, ahead_units u64 0, ahead_bytes u64 0
01 HELLO: version u16, oldest u16, scheme str, credential bin, agent str, resume bool,
    limits Limits, capabilities [str] []
02 WELCOME: version u16, agent str, identity str, limits Limits, session Session?,
    capabilities [str] [], session_ttl f64 3600.0
03 RESUME: session_id str, token bin, streams [ResumeStream]
04 RESUMED: code u16, text str, session Session, streams [ResumedStream]
05 CONFIRM:
12 CHUNK:
13 EVENTS:
19 RELEASE:
1A BLOCKED:
06 GOAWAY: code u16, text str, retry_after f64 0.0, deadline f64 0.0
07 REDIRECT: url str, retry_after f64 0.0
08 ERROR: code u16, text str, retry bool, retry_after f64 0.0
09 CREDIT: limit_units u64, limit_bytes u64
0A PING: sent_bytes u64, received_bytes u64
0B PONG: sent_bytes u64, received_bytes u64
10 OPEN: use 1-4, resource str, key str, window_units u64, window_bytes u64,
    detail OPEN*, parameters map {}, priority u8? None, deadline f64 0.0, trace str ''
11 OPENED: existing bool, id str, durability 0-3, standing Standing, detail OPENED*
14 END: intent 1-3, code u16, text str, size u64 0, crc u32 0, digest bin b''
15 ACK: limit_units u64, limit_bytes u64, consumed u64, durability 0-3,
    ranges ranges [], retry_after f64 0.0, code u16 0, log_position u64 0
16 PAUSE: paused bool, text str ''
17 CANCEL: scope 0-1, target str '', text str ''
18 OUTCOME: outcome 0-3, code u16, text str, position u64, decided f64,
    object Object? None
20 LIST: prefix str, after str '', limit u32 1000, versions bool False,
    after_version u64 0
21 LISTED: entries [Entry], after str, after_version u64 0
22 STATUS: target str, version u64 0
23 STATUS_REPORT: target str, state str, reasons [str], facts map,
    metadata map {}, history [str] []
24 DELETE: target str, version u64 0
25 SEAL: target str, intent 1-3 1, code u16 0, text str ''
26 CONFIGURE: target str, settings map
27 DONE: text str ''
"""
FIELDS: dict[str, list[list[str]]] = {}
TYPES: dict[str, int] = {}
for line in LAYOUTS.replace("\n   ", "").strip().splitlines():
    head, _colon, columns = line.partition(":")
    FIELDS[head[3:]] = [column.split() for column in columns.split(",") if column]
    if head[:2] != "..":
        TYPES[head[3:]] = int(head[:2], 16)
NAMES = {number: name for name, number in TYPES.items()}
RAW = ("CHUNK", "EVENTS")


def read(kind: str, value: Any, use: int = 0) -> Any:
    """Check a value against its type; an array of fields becomes a dict."""
    if kind.endswith("?"):
        return None if value is None else read(kind[:-1], value)
    if kind.startswith("["):
        need(isinstance(value, list), f"{value!r} is no array")
        need(len(value) <= MOST.get(kind, 2**32), "too many")
        return [read(kind[1:-1], each) for each in value]
    columns = FIELDS.get(kind.replace("*", str(use)))
    if columns is None:
        need(CHECKS[kind](value), f"{value!r} is no {kind}")
        return float(value) if kind == "f64" else value
    need(isinstance(value, list), f"{kind} is no array")
    found: Fields = {}
    for n, (name, each, *default) in enumerate(columns):
        need(n < len(value) or default, f"{kind} without {name}")
        found[name] = (
            read(each, value[n], found.get("use", use))
            if n < len(value)
            else ast.literal_eval(default[0])
        )
    return found


def write(kind: str, value: Any, use: int = 0) -> Any:
    """Turn dicts into arrays of fields, defaults filled in."""
    if kind.endswith("?"):
        return None if value is None else write(kind[:-1], value)
    if kind.startswith("["):
        return [write(kind[1:-1], each) for each in value]
    columns = FIELDS.get(kind.replace("*", str(use)))
    if columns is None:
        return float(value) if kind == "f64" else value
    return [
        write(each, value[name], value.get("use", use))
        if name in value
        else ast.literal_eval(default[0])
        for name, each, *default in columns
    ]


class Frame(NamedTuple):
    """One frame; `name` is "" for a type to be skipped."""

    name: str
    flags: int
    fragment: int
    stream_id: int
    sequence: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the bytes."""
        head = HEADER.pack(len(self.payload), TYPES[self.name], *self[1:5])
        return (
            head + struct.pack(">I", crc32c(head, crc32c(self.payload))) + self.payload
        )

    def fields(self, use: int = 0) -> Fields:
        """Return the fields of the payload; `use` is that of the stream's OPEN."""
        if not FIELDS[self.name]:
            has = self.name in RAW
            need(has == bool(self.payload), f"{self.name} of {len(self.payload)} bytes")
            return {}
        reader = Reader(self.payload)
        value = reader.value()
        need(not reader.data, "bytes after the array")
        found: Fields = read(self.name, value, use)
        return found


def encode_fields(name: str, fields: Fields, use: int = 0) -> bytes:
    """Return the payload of a control frame."""
    return pack(write(name, fields, use)) if FIELDS[name] else b""


def decode(data: bytes | bytearray, max_payload: int) -> tuple[Frame, int] | None:
    """Return the first frame and its size, or None while it is incomplete."""
    if len(data) < 24:
        return None
    size, number, flags, fragment, stream_id, sequence = HEADER.unpack_from(data)
    need(size <= max_payload, f"{size} bytes", "frame_too_large")
    if len(data) < 24 + size:
        return None
    payload = bytes(data[24 : 24 + size])
    crc = crc32c(data[:20], crc32c(payload))
    need(crc == int.from_bytes(data[20:24]), f"type {number}", "bad_crc")
    need(number in NAMES or number & 0x80, f"type {number}", "unknown_frame")
    name = NAMES.get(number, "")
    return Frame(name, flags, fragment, stream_id, sequence, payload), 24 + size


class Event(NamedTuple):
    """An event; of kind 255 a gap, whose `size` events were left out for `reason`."""

    event_id: int
    kind: int
    body: bytes
    size: int = 1
    reason: int = 0


def encode_events(events: list[tuple[int, bytes]]) -> bytes:
    """Return the payload of a batch of (kind, body)."""
    entries = [len(events), *(kind << 24 | len(body) for kind, body in events)]
    bodies = b"".join(body for _kind, body in events)
    return struct.pack(f">{len(entries)}I", *entries) + bodies


def decode_events(frame: Frame, kinds: list[str]) -> tuple[list[Event], int]:
    """Return a batch's events and the id after them; adds to `kinds` (§11)."""
    payload, next_id, special, events = frame.payload, frame.sequence, 0, []
    need(len(payload) >= 8, "no event")
    count = int.from_bytes(payload[:4])
    at = 4 + 4 * count
    need(count >= 1 and at <= len(payload), f"{count} entries")
    for entry in struct.unpack_from(f">{count}I", payload, 4):
        kind, body = entry >> 24, payload[at : at + (entry & 0xFFFFFF)]
        at += entry & 0xFFFFFF
        need(at <= len(payload), "a body is too short")
        special |= SPECIAL * (kind >= 254)
        if kind == 254:
            _define(body, kinds)
            continue
        need(kind == 255 or kind <= len(kinds), f"the kind {kind} has no name")
        event = Event(next_id, kind, body, *(_gap(body) if kind == 255 else ()))
        events.append(event)
        next_id += event.size
    need(at == len(payload) and next_id < 2**64, "bytes or ids too many")
    need(special == frame.flags & SPECIAL, "SPECIAL is wrong")
    return events, next_id


def _gap(body: bytes) -> tuple[int, int]:
    need(len(body) == 9, "a gap has 9 bytes")
    count, reason = struct.unpack(">QB", body)
    need(count and 1 <= reason <= 3, "a gap of nothing, or for no reason")
    return count, reason


def _define(body: bytes, kinds: list[str]) -> None:
    need(body, "an empty definition")
    number, name = body[0], text(body[1:])
    if 1 <= number <= len(kinds):
        need(kinds[number - 1] == name, f"another name for the kind {number}")
        return
    need(number == len(kinds) + 1 <= MOST["[name]"], f"the kind {number} is not next")
    need(is_name(name) and name not in kinds, f"the name {name!r}")
    kinds.append(name)

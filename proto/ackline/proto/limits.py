"""The numbers of the protocol and what a peer may state (`SPEC.md §6`, `§17`).

Sizes are bytes, durations seconds. A name that begins with `DEFAULT_` is what a server
states unless it is configured otherwise; the others hold for every peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ackline.proto.errors import Code, ProtocolViolation

if TYPE_CHECKING:
    from ackline.proto.messages import Limits

__all__ = [
    "ALPN",
    "DEFAULT_HEARTBEAT",
    "DEFAULT_INITIAL_BYTES",
    "DEFAULT_INITIAL_UNITS",
    "DEFAULT_MAX_CHUNK_SIZE",
    "DEFAULT_MAX_PAYLOAD",
    "DEFAULT_MAX_STREAMS",
    "DEFAULT_WINDOW_BYTES",
    "DEFAULT_WINDOW_UNITS",
    "EARLY_BYTES",
    "EARLY_UNITS",
    "HANDSHAKE_TIMEOUT",
    "LOST_AFTER_HEARTBEATS",
    "MAX_CHUNKS",
    "MAX_CHUNK_SIZE",
    "MAX_ENTRIES",
    "MAX_EVENT",
    "MAX_FRAGMENTS",
    "MAX_HEARTBEAT",
    "MAX_KEY",
    "MAX_KINDS",
    "MAX_MAP",
    "MAX_METADATA",
    "MAX_NAME",
    "MAX_PAYLOAD",
    "MAX_PINGS_PER_SECOND",
    "MAX_RANGES",
    "MAX_REDIRECTS",
    "MAX_REQUESTS",
    "MAX_STRING",
    "MIN_CHUNK_SIZE",
    "MIN_HEARTBEAT",
    "MIN_INITIAL_BYTES",
    "MIN_INITIAL_UNITS",
    "MIN_PAYLOAD",
    "MIN_TOKEN",
    "VERSION",
    "validated",
]

#: The version of SPEC.md that is spoken here, and the oldest.
VERSION: Final = 1

#: What TLS negotiates (`SPEC.md §2`).
ALPN: Final = "ackline/1"

#: Largest payload any peer accepts before it has stated its limits. It bounds what a
#: stranger can make a server hold, and still carries a HELLO with a large credential.
MIN_PAYLOAD: Final = 8_192

#: Largest payload a side may state. A frame is the unit of fairness: at 1 MiB a slow
#: link of 1 MB/s is already held for a second by one frame.
MAX_PAYLOAD: Final = 2**20

#: What the fastest links need: a fragment costs each side some 20 us of Python, which
#: at 256 KiB was a fifth of an upload. Slower links get smaller ones (SPEC.md §21).
DEFAULT_MAX_PAYLOAD: Final = MAX_PAYLOAD

#: Body of the largest event: with the count and one entry it makes 256 KiB.
MAX_EVENT: Final = 2**18 - 8

#: Below this the header and the record of a chunk would cost more than its bytes.
MIN_CHUNK_SIZE: Final = 1_024

#: A chunk is what is retried and verified as a whole, and must fit a window.
MAX_CHUNK_SIZE: Final = 256 * 2**20

#: Four default chunks: room for a larger proposal, and half of the window.
DEFAULT_MAX_CHUNK_SIZE: Final = 16 * 2**20

#: Fragments of one chunk in one attachment: the fragment number is a u16.
MAX_FRAGMENTS: Final = 2**16

#: Chunks of one upload. At the smallest chunk size this is 4 TiB, and the index of a
#: record stays a u32.
MAX_CHUNKS: Final = 2**32

#: Kinds of one stream: the numbers 1 to 239; those above are reserved or special.
MAX_KINDS: Final = 239

#: Ranges in ACK and Standing. An ACK must stay small: a receiver with more holes than
#: this states the lowest, and the rest is sent again at worst.
MAX_RANGES: Final = 64

#: Requests unanswered on one connection: each holds a handler and its answer.
MAX_REQUESTS: Final = 64

#: Entries in one LISTED, so that one listing cannot hold the loop.
MAX_ENTRIES: Final = 1_000

#: Bytes of an idempotency key: it is an index key in the store.
MAX_KEY: Final = 255

#: Bytes of an object's metadata, encoded: an OUTCOME or LISTED that carries it has to
#: fit the smallest payload that any peer accepts.
MAX_METADATA: Final = 4_096

#: Bytes of NAME in a resource: what file systems allow for one, so tools can use it.
MAX_NAME: Final = 255

#: Bytes of a string or bin in a control payload, so that no text can fill a frame.
MAX_STRING: Final = 4_096

#: Entries of a map in a control payload: maps are metadata, not data.
MAX_MAP: Final = 64

#: Bytes of a session token, at least: 128 random bits cannot be guessed.
MIN_TOKEN: Final = 16

#: All bytes a client may send before WELCOME, and its connection window until then:
#: what a server holds for a client it does not know yet.
EARLY_BYTES: Final = 65_536

#: Units a client may send before WELCOME, on all its streams together.
EARLY_UNITS: Final = 64

#: Streams open at once on a session; an idle one costs the server some kilobytes.
DEFAULT_MAX_STREAMS: Final = 10_000

#: Connection window in units: at 64-byte events the bytes would allow 500,000 Event
#: objects; this bounds their memory.
DEFAULT_WINDOW_UNITS: Final = 65_536

#: Connection window in bytes: 1 Gbit/s at a round trip of 250 ms.
DEFAULT_WINDOW_BYTES: Final = 32 * 2**20

#: Stream window from OPEN until OPENED: a tiny file or a first burst of records.
DEFAULT_INITIAL_UNITS: Final = 64
DEFAULT_INITIAL_BYTES: Final = 65_536

#: The least a server may state of it: what a client may send before it knows more.
MIN_INITIAL_UNITS: Final = 1
MIN_INITIAL_BYTES: Final = 1_024

#: Seconds of silence after which a side sends PING: below the idle timeouts of common
#: middleboxes, above the cost of waking 50,000 connections.
DEFAULT_HEARTBEAT: Final = 10.0
MIN_HEARTBEAT: Final = 0.05
MAX_HEARTBEAT: Final = 3_600.0

#: Heartbeats of silence, or of output not taken, after which a peer is lost (§17).
LOST_AFTER_HEARTBEATS: Final = 3

#: More PINGs than this are a way to make a peer write without reading (§17).
MAX_PINGS_PER_SECOND: Final = 10

#: Seconds a server waits for HELLO: an open socket that says nothing costs a slot.
HANDSHAKE_TIMEOUT: Final = 10.0

#: REDIRECTs followed in a row, so that two servers cannot play ping-pong (§18).
MAX_REDIRECTS: Final = 5


def validated(limits: Limits, *, of_server: bool) -> Limits:
    """Return `limits` if a peer may state them (`SPEC.md §6`).

    Args:
        limits: What the peer stated in HELLO or WELCOME.
        of_server: Whether the peer is the server. `max_streams` and `initial_*` are
            the server's alone and are not looked at in a client's.

    Raises:
        ProtocolViolation: `bad_frame`; the text names the first value out of range.
    """
    legal: list[tuple[str, float, float, float]] = [
        ("max_payload", limits.max_payload, MIN_PAYLOAD, MAX_PAYLOAD),
        ("max_chunk_size", limits.max_chunk_size, MIN_CHUNK_SIZE, MAX_CHUNK_SIZE),
        ("window_units", limits.window_units, 1, 2**64 - 1),
        ("window_bytes", limits.window_bytes, limits.max_chunk_size, 2**64 - 1),
        ("heartbeat", limits.heartbeat, MIN_HEARTBEAT, MAX_HEARTBEAT),
    ]
    if of_server:
        legal += [
            ("max_streams", limits.max_streams, 1, 2**32 - 1),
            ("initial_units", limits.initial_units, MIN_INITIAL_UNITS, 2**64 - 1),
            ("initial_bytes", limits.initial_bytes, MIN_INITIAL_BYTES, 2**64 - 1),
        ]
    for name, value, lowest, highest in legal:
        if not lowest <= value <= highest:
            raise ProtocolViolation(
                Code.BAD_FRAME,
                f"{name} is {value:g}; it must be from {lowest:g} to {highest:g}",
            )
    return limits

#!/usr/bin/env python3
"""The messages in the vectors: of each type a minimal one and some full ones."""

from __future__ import annotations

from vectors.reference import Fields, Map, Value

__all__ = ["FULL", "MINIMAL"]

_U8, _U16, _U32, _U64 = 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1
_LARGEST = 1.7976931348623157e308

_LIMITS: Fields = {
    "max_payload": 262_144,
    "max_chunk_size": 16_777_216,
    "max_streams": 10_000,
    "window_units": 65_536,
    "window_bytes": 33_554_432,
    "initial_units": 64,
    "initial_bytes": 65_536,
    "heartbeat": 10.0,
}
_CLIENT_LIMITS: Fields = {
    **_LIMITS,
    "max_streams": 0,
    "initial_units": 0,
    "initial_bytes": 0,
}
_SESSION: Fields = {"session_id": "s-1", "token": bytes(range(16)), "epoch": 1}
_PROOF: Fields = {
    "base": 0,
    "position": 9,
    "bytes": 9,
    "lengths_crc": 0x11223344,
    "bodies_crc": 0xE3069283,
}
_OBJECT: Fields = {
    "object_id": "o-1",
    "name": "greeting.txt",
    "version": 1,
    "size": 9,
    "crc": 0xE3069283,
    "algorithm": "crc32c",
    "digest": b"",
    "created": 1_700_000_000.5,
    "metadata": Map(),
}
_METADATA = Map(
    {
        "nil": None,
        "bool": True,
        "integer": -42,
        "float": 0.25,
        "str": "größe",
        "bin": b"\x00\xff",
    }
)
_OUTCOME: Fields = {
    "outcome": 1,
    "code": 0,
    "text": "",
    "position": 2,
    "decided": 1_700_000_001.0,
    "object": None,
}
_STANDING: Fields = {
    "generation": 0x0123456789ABCDEF,
    "epoch": 1,
    "position": 0,
    "durable": 0,
    "limit_units": 256,
    "limit_bytes": 8_388_608,
    "ranges": [],
    "held": 0,
    "held_crc": 0,
    "proof": None,
    "verified": False,
    "paused": False,
    "kinds": [],
    "outcome": None,
    "log_position": 0,
}
_FULL_STANDING: Fields = {
    **_STANDING,
    "position": 9,
    "durable": 7,
    "ranges": [[11, 12], [14, 20]],
    "held": 5,
    "held_crc": 0xDEADBEEF,
    "proof": _PROOF,
    "verified": True,
    "paused": True,
    "kinds": ["token", "log line"],
    "outcome": {**_OUTCOME, "object": {**_OBJECT, "metadata": _METADATA}},
    "log_position": 4_711,
}
_OPEN_END: Fields = {
    "parameters": Map(),
    "priority": None,
    "deadline": 0.0,
    "trace": "",
}
_FULL_OPEN_END: Fields = {
    "parameters": _METADATA,
    "priority": 7,
    "deadline": 12.5,
    "trace": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
_OPENED_START: Fields = {
    "existing": False,
    "id": "uploads/u-1",
    "durability": 2,
    "standing": _STANDING,
}


def _open(use: int, resource: str, detail: Fields, **changed: Value) -> Fields:
    return {
        "use": use,
        "resource": resource,
        "key": "",
        "window_units": 0,
        "window_bytes": 0,
        "detail": detail,
        **_OPEN_END,
        **changed,
    }


_UPLOAD: Fields = {
    "chunk_size": 4_194_304,
    "size": None,
    "algorithm": "crc32c",
    "digest": b"",
    "existing": 0,
    "durability": 2,
    "early": False,
}
_FETCH: Fields = {
    "chunk_size": 4_194_304,
    "object_id": "",
    "version": 0,
    "start": 0,
    "length": None,
    "position": 0,
    "held": 0,
    "held_crc": 0,
    "proof": None,
}
_SUBSCRIBE: Fields = {
    "start": 0,
    "value": 0,
    "policy": "block",
    "policy_value": None,
    "on_trimmed": 0,
    "generation": 0,
    "proof": None,
    "linger": 0.0,
}

#: Each message with as little in it as it may have, and how many trailing fields are
#: left out because they have their defaults.
MINIMAL: dict[str, tuple[Fields, int]] = {
    "HELLO": (
        {
            "version": 1,
            "oldest": 1,
            "scheme": "",
            "credential": b"",
            "agent": "",
            "resume": False,
            "limits": _CLIENT_LIMITS,
            "capabilities": [],
        },
        1,
    ),
    "WELCOME": (
        {
            "version": 1,
            "agent": "",
            "identity": "",
            "limits": _LIMITS,
            "session": None,
            "capabilities": [],
            "session_ttl": 3600.0,
        },
        2,
    ),
    "RESUME": ({"session_id": "s-1", "token": b"", "streams": []}, 0),
    "RESUMED": ({"code": 0, "text": "", "session": _SESSION, "streams": []}, 0),
    "GOAWAY": ({"code": 0, "text": "", "retry_after": 0.0, "deadline": 0.0}, 2),
    "REDIRECT": ({"url": "ackline://other:7171", "retry_after": 0.0}, 1),
    "ERROR": ({"code": 1, "text": "", "retry": True, "retry_after": 0.0}, 1),
    "CREDIT": ({"limit_units": 0, "limit_bytes": 0}, 0),
    "PING": ({"sent_bytes": 0, "received_bytes": 0}, 0),
    "PONG": ({"sent_bytes": 0, "received_bytes": 0}, 0),
    "OPEN": (_open(1, "objects/greeting.txt", _UPLOAD), 4),
    "OPENED": ({**_OPENED_START, "detail": {"chunk_size": 4_194_304}}, 0),
    "END": (
        {"intent": 1, "code": 0, "text": "", "size": 0, "crc": 0, "digest": b""},
        3,
    ),
    "ACK": (
        {
            "limit_units": 0,
            "limit_bytes": 0,
            "consumed": 0,
            "durability": 0,
            "ranges": [],
            "retry_after": 0.0,
            "code": 0,
            "log_position": 0,
        },
        4,
    ),
    "PAUSE": ({"paused": False, "text": ""}, 1),
    "CANCEL": ({"scope": 0, "target": "", "text": ""}, 2),
    "OUTCOME": (_OUTCOME, 1),
    "LIST": (
        {
            "prefix": "objects/",
            "after": "",
            "limit": 1000,
            "versions": False,
            "after_version": 0,
        },
        4,
    ),
    "LISTED": ({"entries": [], "after": "", "after_version": 0}, 1),
    "STATUS": ({"target": "runs/r-1", "version": 0}, 1),
    "STATUS_REPORT": (
        {
            "target": "runs/r-1",
            "state": "CREATED",
            "reasons": [],
            "facts": Map(),
            "metadata": Map(),
            "history": [],
        },
        2,
    ),
    "DELETE": ({"target": "logs/app", "version": 0}, 1),
    "SEAL": ({"target": "logs/app", "intent": 1, "code": 0, "text": ""}, 3),
    "CONFIGURE": ({"target": "logs/app", "settings": Map()}, 0),
    "DONE": ({"text": ""}, 1),
}

#: Messages with every field given, several where one cannot show all.
FULL: dict[str, list[Fields]] = {
    "HELLO": [
        {
            "version": 1,
            "oldest": 1,
            "scheme": "bearer",
            "credential": b"secret",
            "agent": "example/1.0",
            "resume": True,
            "limits": _CLIENT_LIMITS,
            "capabilities": ["later"],
        },
        {
            "version": _U16,
            "oldest": 0,
            "scheme": "bearer",
            "credential": bytes(4096),
            "agent": "é" * 2048,
            "resume": False,
            "limits": {
                **dict.fromkeys(_LIMITS, _U32),
                "window_units": _U64,
                "window_bytes": _U64,
                "initial_units": _U64,
                "initial_bytes": _U64,
                "heartbeat": 3600.0,
            },
            "capabilities": [],
        },
    ],
    "WELCOME": [
        {
            "version": 1,
            "agent": "example/1.0",
            "identity": "alice",
            "limits": _LIMITS,
            "session": _SESSION,
            "capabilities": ["later"],
            "session_ttl": 60.0,
        }
    ],
    "RESUME": [
        {
            "session_id": "s-1",
            "token": bytes(range(16)),
            "streams": [
                {
                    "stream_id": 1,
                    "generation": 7,
                    "position": 3,
                    "held": 100,
                    "held_crc": 0xDEADBEEF,
                    "proof": _PROOF,
                    "window_units": 256,
                    "window_bytes": 8_388_608,
                    "paused": True,
                },
                {
                    "stream_id": 2,
                    "generation": 0,
                    "position": 0,
                    "held": 0,
                    "held_crc": 0,
                    "proof": None,
                    "window_units": 0,
                    "window_bytes": 0,
                    "paused": False,
                },
            ],
        },
        {
            "session_id": "s" * 4096,
            "token": bytes(2048),
            "streams": [
                {
                    "stream_id": _U32,
                    "generation": _U64,
                    "position": _U64,
                    "held": _U32,
                    "held_crc": _U32,
                    "proof": {
                        "base": _U64,
                        "position": _U64,
                        "bytes": _U64,
                        "lengths_crc": _U32,
                        "bodies_crc": _U32,
                    },
                    "window_units": _U64,
                    "window_bytes": _U64,
                    "paused": True,
                }
            ],
        },
    ],
    "RESUMED": [
        {
            "code": 0,
            "text": "",
            "session": {**_SESSION, "epoch": 2},
            "streams": [
                {"stream_id": 1, "code": 0, "text": "", "standing": _FULL_STANDING},
                {"stream_id": 2, "code": 81, "text": "gone", "standing": None},
            ],
        }
    ],
    "GOAWAY": [
        {"code": 14, "text": "new release", "retry_after": 1.5, "deadline": 30.0}
    ],
    "REDIRECT": [{"url": "acklines://other:7171", "retry_after": 0.5}],
    "ERROR": [
        {"code": 16, "text": "try later", "retry": True, "retry_after": 2.5},
        {"code": 9_999, "text": "later", "retry": False, "retry_after": 0.0},
    ],
    "CREDIT": [
        {"limit_units": 65_536, "limit_bytes": 33_554_432},
        {"limit_units": _U64, "limit_bytes": _U64},
    ],
    "PING": [
        {"sent_bytes": 1_000, "received_bytes": 70_000},
        {"sent_bytes": _U64, "received_bytes": _U64},
    ],
    "PONG": [{"sent_bytes": 70_048, "received_bytes": 1_048}],
    "OPEN": [
        _open(
            1,
            "objects/größe/a b",
            {
                **_UPLOAD,
                "size": 9,
                "algorithm": "sha256",
                "digest": bytes(32),
                "existing": 2,
                "durability": 3,
                "early": True,
            },
            key="k-1",
            **_FULL_OPEN_END,
        ),
        _open(
            2,
            "objects/greeting.txt",
            {
                "chunk_size": 1_024,
                "object_id": "o-1",
                "version": 3,
                "start": 10,
                "length": 20,
                "position": 1,
                "held": 2,
                "held_crc": 0xDEADBEEF,
                "proof": _PROOF,
            },
            window_units=256,
            window_bytes=8_388_608,
        ),
        _open(3, "logs/app", {"kinds": ["info", "error"]}, key="host-1"),
        _open(
            4,
            "sources/chat",
            {
                "start": 4,
                "value": 17,
                "policy": "drop-oldest",
                "policy_value": 100,
                "on_trimmed": 1,
                "generation": 7,
                "proof": _PROOF,
                "linger": 0.5,
            },
            window_units=1_000,
            window_bytes=1_000_000,
            parameters=Map({"prompt": "hello"}),
        ),
        _open(
            3,
            "logs/" + "n" * 255,
            {"kinds": [f"kind {n}" for n in range(1, 240)]},
            key="k" * 255,
            priority=_U8,
            deadline=_LARGEST,
            parameters=Map({f"{n}": _U64 for n in range(63)} | {"lowest": -(2**63)}),
        ),
    ],
    "OPENED": [
        {
            "existing": True,
            "id": "objects/o-1",
            "durability": 0,
            "standing": _FULL_STANDING,
            "detail": {
                "chunk_size": 1_024,
                "object": {**_OBJECT, "metadata": _METADATA},
                "start": 10,
                "length": 20,
            },
        },
        {
            **_OPENED_START,
            "id": "logs/app",
            "detail": {"log_position": 4_711},
        },
        {
            **_OPENED_START,
            "id": "runs/r-1",
            "durability": 0,
            "detail": {
                "resumes": 2,
                "first": 5,
                "ahead_units": 65_536,
                "ahead_bytes": 16_777_216,
            },
        },
    ],
    "END": [
        {
            "intent": 1,
            "code": 0,
            "text": "",
            "size": 9,
            "crc": 0xE3069283,
            "digest": bytes(32),
        },
        {
            "intent": 2,
            "code": 119,
            "text": "the file changed",
            "size": 0,
            "crc": 0,
            "digest": b"",
        },
        {
            "intent": 3,
            "code": 112,
            "text": "",
            "size": 0,
            "crc": 0,
            "digest": b"",
        },
    ],
    "ACK": [
        {
            "limit_units": 300,
            "limit_bytes": 9_000_000,
            "consumed": 17,
            "durability": 2,
            "ranges": [[19, 20], [20, 22], [40, 41]],
            "retry_after": 1.0,
            "code": 86,
            "log_position": 4_711,
        },
        {
            "limit_units": _U64,
            "limit_bytes": _U64,
            "consumed": _U64,
            "durability": 3,
            "ranges": [[2 * n, 2 * n + 1] for n in range(63)] + [[_U64 - 1, _U64]],
            "retry_after": _LARGEST,
            "code": _U16,
            "log_position": _U64,
        },
    ],
    "PAUSE": [{"paused": True, "text": "the user asked"}],
    "CANCEL": [
        {"scope": 1, "target": "runs/r-1", "text": "no longer wanted"},
    ],
    "OUTCOME": [
        {**_OUTCOME, "object": {**_OBJECT, "metadata": _METADATA}},
        {**_OUTCOME, "outcome": 0, "text": "still stopping"},
        {**_OUTCOME, "outcome": 2, "code": 117, "text": "digest differs"},
        {**_OUTCOME, "outcome": 3, "code": 112},
    ],
    "LIST": [
        {
            "prefix": "objects/a",
            "after": "objects/app",
            "limit": 10,
            "versions": True,
            "after_version": 3,
        }
    ],
    "LISTED": [
        {
            "entries": [
                {
                    "resource": "logs/app",
                    "state": "open",
                    "size": 1_000,
                    "created": 1_700_000_000.0,
                    "facts": _METADATA,
                    "metadata": _METADATA,
                },
                {
                    "resource": "logs/web",
                    "state": "sealed",
                    "size": 0,
                    "created": 0.0,
                    "facts": Map(),
                    "metadata": Map(),
                },
            ],
            "after": "logs/web",
            "after_version": 2,
        }
    ],
    "STATUS": [{"target": "objects/app", "version": 2}],
    "STATUS_REPORT": [
        {
            "target": "uploads/u-1",
            "state": "PAUSED",
            "reasons": ["disconnected", "paused_by_client"],
            "facts": _METADATA,
            "metadata": _METADATA,
            "history": ["2026-01-31T12:00:00.000Z opened", "…"],
        }
    ],
    "DELETE": [{"target": "objects/greeting.txt", "version": 3}],
    "SEAL": [{"target": "logs/app", "intent": 2, "code": 120, "text": "broken"}],
    "CONFIGURE": [
        {
            "target": "logs/app",
            "settings": Map({"retention_seconds": 60.5, "retention_bytes": 1_000_000}),
        }
    ],
    "DONE": [{"text": "deleted 2 versions"}],
}

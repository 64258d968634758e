#!/usr/bin/env python3
"""Vectors of checksums, proofs and resource names."""

from __future__ import annotations

from vectors.reference import Value, crc32c, definition, entry, gap
from vectors.valid import Vector

__all__ = ["checksums", "proofs", "resources"]

_SENTENCES = (b"", b"a", b"123456789", bytes(32), b"\xff" * 32, bytes(range(256)))


def checksums() -> list[Vector]:
    """Return the vectors of `checksums.json`: A, B, A + B and their CRCs."""
    vectors: list[Vector] = [
        {
            "name": f"{len(first)} bytes before {len(second)} bytes",
            "first": first.hex(),
            "second": second.hex(),
            "first_crc": crc32c(first),
            "second_crc": crc32c(second),
            "second_length": len(second),
            "crc": crc32c(first + second),
        }
        for first in _SENTENCES
        for second in _SENTENCES
    ]
    # Zero bytes have a length and no content to print: only the CRCs are here.
    for power in (12, 16):
        zeros = bytes(2**power)
        vectors.append(
            {
                "name": f"9 bytes before 2^{power} zero bytes, by CRC alone",
                "first_crc": crc32c(b"123456789"),
                "second_crc": crc32c(zeros),
                "second_length": len(zeros),
                "crc": crc32c(b"123456789" + zeros),
            }
        )
    return vectors


def proofs() -> list[Vector]:
    """Return the vectors of `proofs.json`: entries, and proofs over parts of them."""
    log = [
        entry(0, b"It "),
        entry(1, b"was"),
        entry(0, b""),
        entry(2, b" a dark"),
        entry(0, b" night"),
    ]
    vectors = [
        _proof(f"of [{base}, {position})", log, base, position)
        for base in range(6)
        for position in range(base, 6)
    ]
    vectors += [
        _proof(
            "with a definition, which is left out",
            [entry(0, b"a"), definition(1, "one"), entry(1, b"b")],
            0,
            2,
        ),
        _proof(
            "after a gap",
            [entry(0, b"a"), gap(40, 2), entry(0, b"b"), entry(0, b"c")],
            41,
            43,
        ),
    ]
    return vectors


def resources() -> list[Vector]:
    """Return the vectors of `resources.json`: names, and what is wrong with some."""
    good = [
        ("objects", "a"),
        ("logs", "app"),
        ("sources", "chat"),
        ("runs", "r-1"),
        ("uploads", "u-1"),
        ("sessions", "s-1"),
        ("objects", "videos/2024/ä b.mp4"),
        ("objects", "/"),
        ("objects", ".."),
        ("objects", "a//b/"),
        ("objects", "a\u0080b\u00a0"),
        ("objects", "\U0001f600"),
        ("objects", "n" * 255),
        ("objects", "é" * 127 + "n"),
    ]
    bad = [
        "",
        "objects",
        "objects/",
        "/objects/a",
        "object/a",
        "Objects/a",
        "a",
        "objects/ a",
        "objects/a ",
        "objects/ ",
        "objects/a\x00",
        "objects/a\nb",
        "objects/\x1f",
        "objects/\x7f",
        "objects/" + "n" * 256,
        "objects/" + "é" * 128,
    ]
    vectors: list[Vector] = [
        {
            "name": f"{kind}/ {name[:20]}",
            "resource": f"{kind}/{name}",
            "error": None,
            "kind": kind,
            "parsed": name,
        }
        for kind, name in good
    ]
    for text in bad:
        error = "invalid_argument"
        name = f"not {text[:20]!r}"
        vectors.append({"name": name, "resource": text, "error": error})
    return vectors


def _proof(
    name: str, entries: list[tuple[int, bytes]], base: int, position: int
) -> Vector:
    covered: list[tuple[int, bytes]] = []
    at = 0
    for word, body in entries:
        kind = word >> 24
        if kind < 240 and base <= at < position:
            covered.append((word, body))
        at += int.from_bytes(body[:8], "big") if kind == 255 else int(kind != 254)
    bodies = b"".join(body for _, body in covered)
    stated: Value = {
        "base": base,
        "position": position,
        "bytes": len(bodies),
        "lengths_crc": crc32c(b"".join(word.to_bytes(4, "big") for word, _ in covered)),
        "bodies_crc": crc32c(bodies),
    }
    return {
        "name": name,
        "entries": [[word >> 24, body.hex()] for word, body in entries],
        "proof": stated,
    }

#!/usr/bin/env python3
"""Write the golden vectors, `*.json` beside this file (`SPEC.md §24`).

Run it as `python -m vectors.generate` after a change of SPEC.md that changes bytes. It
is deterministic: a test compares the files with what it would write.
"""

from __future__ import annotations

import json
from pathlib import Path

from vectors.algebra import checksums, proofs, resources
from vectors.invalid import invalid_frames
from vectors.reference import TYPES, frame, pack
from vectors.valid import Vector, valid_frames

__all__ = ["FOLDER", "files"]

FOLDER = Path(__file__).parent

#: Of this version of the format of the files, not of the protocol.
_FORMAT = 1


def files() -> dict[str, str]:
    """Return the content of every file by its name."""
    return {
        "frames-valid.json": _file("Frames to be read and written", valid_frames()),
        "frames-invalid.json": _file("Frames to be refused", invalid_frames()),
        "frames-skipped.json": _file("Frames to be skipped", _skipped()),
        "checksums.json": _file("CRC-32C of concatenations", checksums()),
        "proofs.json": _file("Position proofs", proofs()),
        "resources.json": _file("Names of resources", resources()),
    }


def _skipped() -> list[Vector]:
    """Return optional frames of types that version 1 does not know."""
    return [
        {"name": name, "frame": (whole + frame(TYPES["PING"], pack([1, 2]))).hex()}
        for name, whole in {
            "the first optional type, empty, before a PING": frame(0x80),
            "the last optional type with a payload, before a PING": frame(
                0xFF, bytes(100), flags=0xFF, fragment=7, stream_id=9, sequence=1
            ),
        }.items()
    ]


def _file(description: str, vectors: list[Vector]) -> str:
    """Return a file with a line for each vector, so that a diff shows which changed."""
    lines = [json.dumps(vector, ensure_ascii=False) for vector in vectors]
    first = json.dumps({"format": _FORMAT, "description": description})[:-1]
    return f'{first}, "vectors": [\n' + ",\n".join(lines) + "\n]}\n"


def main() -> None:
    """Write every file."""
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()

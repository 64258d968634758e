"""Ackline: many small files as one folder, beside some of them one by one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ackline.client import connect
from bench.peer import Measured, check

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peer import Job
    from bench.specs import Folder

__all__ = ["folder"]


async def folder(spec: Folder, job: Job) -> Measured:
    """Upload some files one after the other, and then all as a folder."""
    source = job.folder / "source"
    files = _make(source, spec)
    async with connect(f"ackline://{job.server.host}:{job.server.port}") as client:
        begin = time.perf_counter()
        for path in files[: spec.one_by_one]:
            await client.upload(path, f"single/{path.name}", state=False)
        single = spec.one_by_one / (time.perf_counter() - begin)
        with job.clock:
            result = await client.upload_folder(source, "all", state=False)
        stored = [each async for each in client.list("objects/all/")]
    check(result.transferred == spec.files, f"{result.transferred} files went up")
    check(len(stored) == spec.files, f"{len(stored)} objects came")
    check(
        all(each.size == spec.size for each in stored),
        "an object has another size",
    )
    return Measured(
        units=spec.files,
        checked="number and sizes; crc32c, by the server before each commit",
        extra={
            "one_by_one_per_s": single,
            "times_faster": spec.files / job.clock.seconds / single,
        },
    )


def _make(source: Path, spec: Folder) -> list[Path]:
    source.mkdir()
    files = [source / f"{number:06}" for number in range(spec.files)]
    for path in files:
        path.write_bytes(os.urandom(spec.size))
    return files

"""Whether a store that was opened again keeps to the facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.checksums import crc32c
from ackline.proto.proofs import NOTHING
from tests.crash.facts import GONE, Violation

if TYPE_CHECKING:
    from pathlib import Path

    from ackline.server.stores.seams import Log
    from ackline.server.stores.storage import Storage
    from tests.crash.facts import Facts, Key, LogFacts, UploadFacts

__all__ = ["inspect", "inspect_log", "observe"]


async def inspect(
    storage: Storage, folder: Path, facts: Facts, *, killed: bool
) -> dict[Key, object]:
    """Compare everything in a store with the facts.

    Args:
        storage: Just opened.
        folder: Its data folder.
        facts: As they were at the crash. What clients are told now is added.
        killed: Whether the crash lost nothing that was written.

    Returns:
        What was observed, for `Facts.settle`.

    Raises:
        Violation: Something is not as it has to be.
    """
    observed = await observe(storage, facts.keys())
    facts.compare(observed)
    for upload_id, upload in facts.uploads.items():
        if observed.get(("outcome", upload_id), GONE) is None:
            kept = killed and not facts.faulted
            await _inspect_upload(storage, folder, upload_id, upload, killed=kept)
    await _inspect_objects(storage, facts, observed)
    for key, log_id in observed.items():
        if key[0] == "log" and log_id != GONE:
            log = await storage.logs.open(key[1], create=False)
            if log.recovery.lost_events:
                raise Violation(f"log {key[1]} says that events are lost")
            await inspect_log(log, facts.logs.get(str(log_id)), trimming=facts.trims)
    return observed


async def observe(storage: Storage, keys: set[Key]) -> dict[Key, object]:
    """Return the values of these keys, but of what belongs to something gone."""
    observed: dict[Key, object] = {}
    for key in sorted(keys):
        match key:
            case ("object", name):
                found = await storage.chunks.versions(name)
                ids = tuple(each.object_id for each in found if each.name == name)
                observed[key] = ids or GONE
            case ("outcome", upload_id):
                upload = await storage.chunks.upload(upload_id)
                observed[key] = upload.outcome if upload else GONE
            case ("run", run_id):
                run = await storage.runs.run(run_id)
                observed[key] = run.outcome if run else GONE
            case ("session", session_id):
                session = await storage.sessions.load(session_id)
                observed[key] = (session.epoch, session.token_hash) if session else GONE
            case ("stream", session_id, number):
                streams = await storage.sessions.streams(session_id)
                of = {each.stream_id: each.outcome for each in streams}
                observed[key] = of.get(int(number), GONE)
            case _:
                pass
    await _observe_logs(storage, keys, observed)
    return observed


async def _observe_logs(
    storage: Storage, keys: set[Key], observed: dict[Key, object]
) -> None:
    records = {record.name: record for record in await storage.logs.logs()}
    by_id = {record.log_id: record for record in records.values()}
    for key in sorted(keys):
        if key[0] == "log":
            found = records.get(key[1])
            observed[key] = found.log_id if found else GONE
        elif key[0] in ("sealed", "kinds", "keep") and key[1] in by_id:
            record = by_id[key[1]]
            keep = record.retention_bytes, record.retention_seconds
            values = {"sealed": record.sealed, "kinds": record.kinds, "keep": keep}
            observed[key] = values[key[0]]


async def _inspect_upload(
    storage: Storage, folder: Path, upload_id: str, of: UploadFacts, *, killed: bool
) -> None:
    """Check an open upload: told chunks are stored, stored ones are right."""
    upload = await storage.chunks.load(upload_id)
    content = (folder / "objects" / upload_id).read_bytes()
    for index in range(of.count):
        stored = upload.chunk(index)
        data = of.chunk(index)
        if stored is None:
            if index in of.told and (of.synced or killed):
                raise Violation(f"upload {upload_id} has lost chunk {index}")
            continue
        at = index * of.chunk_size
        if stored != (len(data), crc32c(data)) or content[at : at + len(data)] != data:
            raise Violation(f"upload {upload_id} has other bytes in chunk {index}")
    of.told = {index for index in range(of.count) if upload.chunk(index) is not None}


async def _inspect_objects(
    storage: Storage, facts: Facts, observed: dict[Key, object]
) -> None:
    """Check that every object is whole, and is given to its sinks."""
    for record in await storage.chunks.versions():
        of = facts.uploads.get(record.object_id)
        if of is None or ("object", record.name) not in observed:
            raise Violation(f"nobody committed object {record.name}")
        found = await storage.chunks.open(record.object_id)
        content = bytearray(record.size)
        count = await found.read(0, content)
        await found.close()
        if count != len(of.data) or content != of.data:
            raise Violation(f"object {record.name} has other bytes")
        waiting = {
            each.sink for each in await storage.deliveries.of_object(record.object_id)
        }
        maybe = {sink for sink in of.sinks if (record.object_id, sink) in facts.taken}
        if not set(of.sinks) - maybe <= waiting <= set(of.sinks):
            raise Violation(f"object {record.name} waits for {waiting}, not {of.sinks}")


async def inspect_log(log: Log, facts: LogFacts | None, *, trimming: int = 0) -> None:
    """Check that a log holds what was appended, all that was told, and no hole."""
    if facts is None:
        if log.next_id:
            raise Violation(f"nobody appended to log {log.record.name}")
        return
    name, first_id, next_id = log.record.name, log.first_id, log.next_id
    if next_id < facts.told_to:
        raise Violation(f"log {name} ends at {next_id}, not {facts.told_to}")
    if first_id > facts.kept_from and not trimming:
        raise Violation(f"log {name} begins at {first_id}, not {facts.kept_from}")
    facts.told_to = next_id
    facts.kept_from = max(facts.kept_from, first_id)
    at = await _inspect_batches(log, facts, next_id)
    if log.assigned_id == next_id:
        _inspect_publishers(log, facts, at)


async def _inspect_batches(log: Log, facts: LogFacts, next_id: int) -> int:
    """Compare all batches; return how many of those appended come before the end."""
    name, position = log.record.name, log.first_id
    at = facts.at(position)
    while position < next_id:
        batches = await log.load(position, 4096)
        if not batches:
            raise Violation(f"log {name} has a hole at {position}")
        for batch in batches:
            expected = facts.batches[at] if at < len(facts.batches) else None
            found = batch.first_id, batch.payload
            if expected is None or found != (position, expected.payload):
                raise Violation(f"log {name} has something else at {position}")
            position, at = batch.next_id, at + 1
    if at < len(facts.batches) and facts.batches[at].first_id < next_id:
        raise Violation(f"log {name} ends inside a batch")
    return at


def _inspect_publishers(log: Log, facts: LogFacts, count: int) -> None:
    """Check that publishers go on where the log says."""
    units: dict[str, int] = {}
    for batch in facts.batches[:count]:
        units[batch.publisher] = batch.units
    if log.sums != (facts.batches[count - 1].sums if count else NOTHING):
        raise Violation(f"log {log.record.name} has other sums")
    for publisher, position in units.items():
        state = log.publisher(publisher)
        if state is None or state.position != position:
            raise Violation(f"{publisher} of log {log.record.name} is at {state}")

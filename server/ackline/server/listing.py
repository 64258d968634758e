"""LIST: what there is, by resource (SPEC.md §19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from ackline.proto.errors import Code
from ackline.proto.limits import MAX_ENTRIES
from ackline.proto.messages import Entry, Listed, Value, encode
from ackline.server import outcomes
from ackline.server.refusals import Refusal
from ackline.server.stores.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ackline.proto.messages import List
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.sources import Source
    from ackline.server.stores.entities import (
        LogRecord,
        ObjectRecord,
        RunRecord,
        UploadRecord,
    )

    After: TypeAlias = tuple[str, int]
    """Name and version to continue behind."""

    Found: TypeAlias = list[tuple[Entry, str]]
    """Entries, each with the identity it belongs to, if to one."""

__all__ = ["list_resources"]

ROOM = 16
"""Bytes of a LISTED besides its entries and `after`."""

LAST_OF_RUNS = " \U0010ffff"
"""Sorts after the names of the logs of durable runs (`runlog`), before all others."""


async def list_resources(
    service: Service, who: Identity, message: List, room: int
) -> Listed:
    """Return the entries that begin with a prefix, as many as fit.

    Args:
        service: whose.
        who: sees its own uploads and runs, and what it is permitted to list.
        message: prefix, where to continue, and how many.
        room: bytes of the largest payload the client takes.

    Raises:
        Refusal: the prefix is none, or `after` does not begin with it.
        StoreError: the store cannot be read.
    """
    kind, slash, prefix = message.prefix.partition("/")
    lister = _LISTERS.get(kind)
    if lister is None or not slash:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"{message.prefix!r} is no prefix; it begins with one of"
            f" {', '.join(f'{name}/' for name in _LISTERS)}",
        )
    versions = message.versions and kind == "objects"
    if versions:
        lister = _versions
    after = (message.after.removeprefix(f"{kind}/"), message.after_version)
    limit = max(1, min(message.limit, MAX_ENTRIES))
    seen: list[Entry] = []
    # What may not be seen is not told by `after` either: it is looked past.
    while len(seen) <= limit:
        found = await lister(service, prefix, after, limit + 1)
        seen += [
            entry
            for entry, owner in found
            if owner == who.name or who.may("list", entry.resource)
        ]
        if len(found) <= limit:
            break
        last = found[-1][0]
        after = (last.resource.removeprefix(f"{kind}/"), _version(last))
    page = _fitting(seen, limit, room)
    if versions and page.after:
        page = replace(page, after_version=_version(page.entries[-1]))
    return page


def _version(entry: Entry) -> int:
    version = entry.facts.get("version", 0)
    return version if isinstance(version, int) else 0


def _fitting(entries: list[Entry], limit: int, room: int) -> Listed:
    """Return as many entries as limit and frame allow, and where to continue."""
    taken: list[Entry] = []
    room -= ROOM
    for entry in entries[:limit]:
        # The last resource is named twice: in its entry and as `after`.
        size = len(encode(entry))
        if taken and size + len(entry.resource.encode()) > room:
            break
        room -= size
        taken.append(entry)
    more = len(taken) < len(entries)
    return Listed(tuple(taken), taken[-1].resource if more and taken else "")


async def _objects(service: Service, prefix: str, after: After, limit: int) -> Found:
    found = await service.chunks.objects(prefix, after=after[0], limit=limit)
    return [(_object(each), "") for each in found]


async def _versions(service: Service, prefix: str, after: After, limit: int) -> Found:
    found = await service.chunks.versions(prefix, after=after, limit=limit)
    return [(_object(each), "") for each in found]


def _object(each: ObjectRecord) -> Entry:
    return Entry(
        f"objects/{each.name}",
        "COMPLETED",
        each.size,
        each.created,
        {
            "object_id": each.object_id,
            "version": each.version,
            "crc": each.crc32c,
            "waiting_sinks": each.waiting_sinks,
        },
        outcomes.metadata_of(each.metadata),
    )


async def _logs(service: Service, prefix: str, after: After, limit: int) -> Found:
    # Those of durable runs are listed as runs.
    behind = max(after[0], LAST_OF_RUNS)
    return [
        (await _log(service, record), "")
        for record in await service.logs.logs(prefix, after=behind, limit=limit)
    ]


async def _log(service: Service, record: LogRecord) -> Entry:
    state = "STREAMING" if record.sealed is None else "COMPLETED"
    size, facts = 0, dict[str, Value]()
    try:
        source = await service.logs.open(record.name, create=False)
    except StoreError as error:  # damaged: the others are listed all the same
        state, facts["error"] = "FAILED", str(error)
    else:
        size = source.size
        facts |= {"first": source.first_id, "next": source.next_id}
    return Entry(f"logs/{record.name}", state, size, record.created, facts)


async def _sources(service: Service, prefix: str, after: After, limit: int) -> Found:
    sources = service.runs.sources
    names = sorted(
        name for name in sources if name.startswith(prefix) and name > after[0]
    )
    return [(_source(service, sources[name]), "") for name in names[:limit]]


def _source(service: Service, source: Source) -> Entry:
    return Entry(
        f"sources/{source.name}",
        "CREATED",
        0,
        service.started,
        {"resumes": source.resumes.name.lower(), "durable": source.durable},
    )


async def _runs(service: Service, prefix: str, after: After, limit: int) -> Found:
    records = await service.storage.runs.runs(prefix, after=after[0], limit=limit)
    return [(await _run(service, record), record.identity) for record in records]


async def _run(service: Service, record: RunRecord) -> Entry:
    run, size, state = service.runs.get(record.run_id), 0, "CREATED"
    facts: dict[str, Value] = {"source": record.source, "durable": record.durable}
    if run is not None:
        state, size = run.state, run.size
        facts |= {
            "first": run.first_id,
            "next": run.next_id,
            "consumers": run.consumers,
        }
    elif record.outcome is not None:
        outcome = outcomes.load(record.outcome)
        state, facts["next"] = outcome.outcome.name, outcome.position
        if record.durable:
            source = await service.runs.log_of(record)
            facts["first"], size = source.first_id, source.size
    return Entry(f"runs/{record.run_id}", state, size, record.created, facts)


async def _uploads(service: Service, prefix: str, after: After, limit: int) -> Found:
    entries: Found = []
    behind = after[0]
    while len(entries) < limit:
        records = await service.chunks.uploads(after=behind, limit=MAX_ENTRIES)
        entries += [
            (_upload(service, record), record.parameters.identity)
            for record in records
            if record.upload_id.startswith(prefix)
        ]
        if len(records) < MAX_ENTRIES:
            break
        behind = records[-1].upload_id
    return entries[:limit]


def _upload(service: Service, record: UploadRecord) -> Entry:
    of = record.parameters
    handler = service.owners.get(f"uploads/{record.upload_id}")
    return Entry(
        f"uploads/{record.upload_id}",
        handler.stream.lifecycle.state.value if handler else "PAUSED",
        of.total_size or 0,
        record.created,
        {"name": of.name, "key": of.key, "touched": record.touched},
    )


_LISTERS: Mapping[str, Callable[[Service, str, After, int], Awaitable[Found]]] = {
    "objects": _objects,
    "logs": _logs,
    "sources": _sources,
    "runs": _runs,
    "uploads": _uploads,
}

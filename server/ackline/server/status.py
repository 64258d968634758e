"""STATUS: how something stands, and why it is not moving (SPEC.md §19)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ackline.proto.errors import Code, code_name
from ackline.proto.lifecycle import State
from ackline.proto.messages import StatusReport
from ackline.proto.resource import Resource, ResourceKind, parse_resource
from ackline.server import outcomes
from ackline.server.permissions import check_own, denied
from ackline.server.reasons import (
    Reason,
    run_reasons,
    sink_reasons,
    stream_reasons,
)
from ackline.server.refusals import Refusal
from ackline.server.subscriptions import Subscription
from ackline.server.uploads import UploadHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ackline.proto.messages import Outcome, Status, Value
    from ackline.proto.stream import Stream
    from ackline.server.identities import Identity
    from ackline.server.run import Run
    from ackline.server.service import Service
    from ackline.server.stores.entities import Delivery, UploadRecord

__all__ = ["report_status"]

MOST_LISTED = 20
"""Streams of a session and cursors of a run that are shown: facts have 64 entries."""


async def report_status(
    service: Service, who: Identity, message: Status
) -> StatusReport:
    """Return how a resource stands.

    Raises:
        ProtocolViolation: the target is not a resource.
        Refusal: there is no such thing, or nothing that this identity may see.
        StoreError: the store cannot be read.
    """
    resource = parse_resource(message.target)
    if resource.kind is ResourceKind.OBJECTS:
        report = await _object(service, who, resource, message.version)
    elif message.version:
        raise Refusal(Code.INVALID_ARGUMENT, "only objects have versions")
    else:
        await check_own(service, who, "list", resource)
        report = await _REPORTERS[resource.kind](service, resource)
    about = [str(resource)]
    if resource.kind is ResourceKind.OBJECTS:  # how it came, and who fetched it
        object_id = str(report.facts["object_id"])
        about = [f"uploads/{object_id}", f"objects/{object_id}"]
    entries = [entry for each in about for entry in await service.histories.of(each)]
    entries.sort(key=lambda entry: entry.split(" ", 1)[0])  # else as they happened
    return replace(report, history=tuple(entries))


async def _object(
    service: Service, who: Identity, target: Resource, version: int
) -> StatusReport:
    found = await service.chunks.object(target.name, version or None)
    if found is None and not version:
        found = await service.chunks.object_by_id(target.name)
    named = target if found is None else Resource(ResourceKind.OBJECTS, found.name)
    if not who.may("list", str(named)):
        raise denied(who, "list", target)
    if found is None:
        raise _missing(target, version)
    facts: dict[str, Value] = {
        "object_id": found.object_id,
        "version": found.version,
        "size": found.size,
        "crc": found.crc32c,
        "digest": f"{found.digest_algorithm}:{found.digest.hex()}",
        "created": found.created,
    }
    reasons: list[Reason] = []
    waiting = await service.storage.deliveries.of_object(found.object_id)
    if waiting:
        facts |= _sink_facts(waiting)
        called = service.deliveries.calling(found.object_id)
        facts["sinks_called"] = ", ".join(called)
        reasons = sink_reasons(waiting, called, time.time())
    metadata = outcomes.metadata_of(found.metadata)
    return _report(target, "COMPLETED", reasons, facts, metadata)


def _sink_facts(waiting: list[Delivery]) -> dict[str, Value]:
    """Return who has not taken an object, and how the worst of them fares."""
    worst = max(waiting, key=lambda each: each.attempts)
    return {
        "sinks": ", ".join(each.sink for each in waiting),
        "sink_attempts": worst.attempts,
        "sink_error": worst.error,
        "sink_next_try": worst.next_try,
    }


async def _log(service: Service, target: Resource) -> StatusReport:
    source = await service.logs.open(target.name, create=False)
    record = source.record
    facts: dict[str, Value] = {
        "first": source.first_id,
        "next": source.next_id,
        "size": source.size,
        "created": record.created,
        "kinds": len(record.kinds),
        "retention_seconds": record.retention_seconds,
        "retention_bytes": record.retention_bytes,
    }
    if record.sealed is not None:
        return _ended(target, outcomes.load(record.sealed), facts)
    reason = Reason("nothing_to_send", "nobody publishes more at the moment")
    if source.assigned_id > source.next_id:
        count = source.assigned_id - source.next_id
        reason = Reason("disk", f"{count:,} events are being written to the disk")
    return _report(target, "STREAMING", [reason], facts)


async def _source(service: Service, target: Resource) -> StatusReport:
    source = service.runs.sources.get(target.name)
    if source is None:
        raise _missing(target)
    active = sum(
        run.active and run.source.name == target.name for run in service.runs.all()
    )
    facts: dict[str, Value] = {
        "runs": active,
        "resumes": source.resumes.name.lower(),
    }
    return StatusReport(str(target), "CREATED", (), facts)


async def _run(service: Service, target: Resource) -> StatusReport:
    run = service.runs.get(target.name)
    if run is not None and run.outcome is not None:
        return _ended(target, run.outcome, _run_facts(run))
    if run is not None:
        return _report(target, run.state, run_reasons(run), _run_facts(run))
    record = await service.runs.record(target.name)
    if record is None or record.outcome is None:
        raise _missing(target)
    facts: dict[str, Value] = {"source": record.source, "durable": record.durable}
    return _ended(target, outcomes.load(record.outcome), facts)


async def _upload(service: Service, target: Resource) -> StatusReport:
    record = await service.chunks.upload(target.name)
    if record is None:
        raise _missing(target)
    facts: dict[str, Value] = {
        "name": record.parameters.name,
        "chunk_size": record.parameters.chunk_size,
        "size": record.parameters.total_size,
        "created": record.created,
        "touched": record.touched,
    }
    if record.outcome is not None:
        return _ended(target, outcomes.load(record.outcome), facts)
    handler = service.owners.get(str(target))
    if not isinstance(handler, UploadHandler):
        return await _detached_upload(service, record, target, facts)
    facts.update(_stream_facts(handler.stream))
    state = handler.stream.lifecycle.state.value
    return _report(target, state, stream_reasons(handler), facts)


async def _detached_upload(
    service: Service, record: UploadRecord, target: Resource, facts: dict[str, Value]
) -> StatusReport:
    upload = await service.chunks.load(record.upload_id)
    facts |= {"position": upload.position, "bytes": upload.bytes_stored}
    reason = Reason("disconnected", "no client has it open: upload it again to go on")
    return _report(target, State.PAUSED.value, [reason], facts)


async def _session(service: Service, target: Resource) -> StatusReport:
    session = await service.sessions.find(target.name)
    if session is None:
        raise _missing(target)
    attached = session.connection is not None
    facts: dict[str, Value] = {
        "epoch": session.epoch,
        "streams": len(session.streams) + len(session.recorded),
        "created": session.created,
    }
    for handler in session.handlers[:MOST_LISTED]:
        stream = handler.stream
        words = [f"{stream.resource} {stream.lifecycle.state.value}"]
        if isinstance(handler, Subscription):
            words.append(handler.progress)
        words += [each.text for each in stream_reasons(handler)]
        facts[f"stream {stream.id}"] = ": ".join(words)
    if attached:
        return _report(target, "STREAMING", [], facts)
    gone = service.now() - session.detached_at
    left = service.options.session_ttl - gone
    text = f"its client has not been connected for {gone:.0f} s"
    text += f"; in {left:.0f} s it is forgotten"
    return _report(target, "PAUSED", [Reason("disconnected", text)], facts)


_REPORTERS: Mapping[
    ResourceKind, Callable[[Service, Resource], Awaitable[StatusReport]]
] = {
    ResourceKind.LOGS: _log,
    ResourceKind.SOURCES: _source,
    ResourceKind.RUNS: _run,
    ResourceKind.UPLOADS: _upload,
    ResourceKind.SESSIONS: _session,
}


def _report(
    target: Resource,
    state: str,
    reasons: list[Reason],
    facts: dict[str, Value],
    metadata: dict[str, Value] | None = None,
) -> StatusReport:
    if reasons:
        facts = {"why": "; ".join(each.text for each in reasons), **facts}
    words = tuple(dict.fromkeys(each.word for each in reasons))
    return StatusReport(str(target), state, words, facts, metadata or {})


def _stream_facts(stream: Stream) -> dict[str, Value]:
    half = stream.receiver or stream.sender
    facts: dict[str, Value] = {"epoch": stream.epoch, "priority": stream.priority}
    if half is not None:
        facts["position"] = half.stored
        facts["consumed"] = half.consumed
    if stream.receiver is not None:
        facts["duplicates"] = stream.receiver.duplicates
        facts["window_bytes"] = (
            stream.receiver.grant.limit_bytes - stream.receiver.grant.bytes
        )
    return facts


def _run_facts(run: Run) -> dict[str, Value]:
    cursors = enumerate(run.progress[:MOST_LISTED], 1)
    return {
        "source": run.source.name,
        "resumes": run.source.resumes.name.lower(),
        "durable": run.run_log is not None,
        "first": run.first_id,
        "next": run.next_id,
        "needed_from": min(run.buffer.floor, run.buffer.next_id),
        "bytes": run.size,
        "consumers": run.consumers,
        "created": run.created,
        **{f"cursor {number}": words for number, words in cursors},
    }


def _ended(target: Resource, outcome: Outcome, facts: dict[str, Value]) -> StatusReport:
    facts |= {
        "code": code_name(outcome.code),
        "text": outcome.text,
        "position": outcome.position,
        "decided": outcome.decided,
    }
    return StatusReport(str(target), outcome.outcome.name, (), facts)


def _missing(target: Resource, version: int = 0) -> Refusal:
    which = f" version {version}" if version else ""
    return Refusal(Code.NOT_FOUND, f"there is no {target}{which}")

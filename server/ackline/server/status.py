"""STATUS: how something stands, and why it is not moving (SPEC.md §19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code, code_name
from ackline.proto.lifecycle import PauseReason, State
from ackline.proto.messages import StatusReport
from ackline.proto.resource import Resource, ResourceKind, parse_resource
from ackline.server import outcomes
from ackline.server.publishes import PublishHandler
from ackline.server.refusals import Refusal
from ackline.server.subscriptions import Subscription
from ackline.server.uploads import UploadHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ackline.proto.messages import Outcome, Status, Value
    from ackline.proto.stream import Stream
    from ackline.server.handler import Handler
    from ackline.server.run import Run
    from ackline.server.service import Service
    from ackline.server.stores.entities import Delivery, UploadRecord

__all__ = ["report_status", "run_reasons", "stream_reasons"]

MOST_LISTED = 20
"""Streams of a session and cursors of a run that are shown: facts have 64 entries."""

_PAUSES = {
    PauseReason.DISCONNECTED: "disconnected",
    PauseReason.BY_CLIENT: "paused_by_client",
    PauseReason.BY_SERVER: "paused_by_server",
}


async def report_status(service: Service, message: Status) -> StatusReport:
    """Return how a resource stands.

    Raises:
        ProtocolViolation: the target is not a resource.
        Refusal: there is no such thing.
        StoreError: the store cannot be read.
    """
    resource = parse_resource(message.target)
    if resource.kind is ResourceKind.OBJECTS:
        return await _object(service, resource, message.version)
    if message.version:
        raise Refusal(Code.INVALID_ARGUMENT, "only objects have versions")
    return await _REPORTERS[resource.kind](service, resource)


async def _object(service: Service, target: Resource, version: int) -> StatusReport:
    found = await service.chunks.object(target.name, version or None)
    if found is None and not version:
        found = await service.chunks.object_by_id(target.name)
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
    waiting = await service.storage.deliveries.of_object(found.object_id)
    if waiting:
        facts |= _sink_facts(waiting)
        facts["sinks_called"] = ", ".join(service.deliveries.calling(found.object_id))
    reasons = ("sink",) if waiting else ()
    metadata = outcomes.metadata_of(found.metadata)
    return StatusReport(str(target), "COMPLETED", reasons, facts, metadata)


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
    publishing = source.assigned_id > source.next_id
    reasons = ("disk",) if publishing else ("nothing_to_send",)
    return StatusReport(str(target), "STREAMING", reasons, facts)


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
        return StatusReport(str(target), run.state, run_reasons(run), _run_facts(run))
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
    return StatusReport(
        str(target),
        handler.stream.lifecycle.state.value,
        stream_reasons(handler),
        facts,
    )


async def _detached_upload(
    service: Service, record: UploadRecord, target: Resource, facts: dict[str, Value]
) -> StatusReport:
    upload = await service.chunks.load(record.upload_id)
    facts |= {"position": upload.position, "bytes": upload.bytes_stored}
    return StatusReport(str(target), State.PAUSED.value, ("disconnected",), facts)


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
        words = " ".join([stream.lifecycle.state.value, *stream_reasons(handler)])
        if isinstance(handler, Subscription):
            words += f" {handler.progress}"
        facts[f"stream {stream.id}"] = f"{stream.resource} {words}"
    return StatusReport(
        str(target),
        "STREAMING" if attached else "PAUSED",
        () if attached else ("disconnected",),
        facts,
    )


_REPORTERS: Mapping[
    ResourceKind, Callable[[Service, Resource], Awaitable[StatusReport]]
] = {
    ResourceKind.LOGS: _log,
    ResourceKind.SOURCES: _source,
    ResourceKind.RUNS: _run,
    ResourceKind.UPLOADS: _upload,
    ResourceKind.SESSIONS: _session,
}


def stream_reasons(handler: Handler) -> tuple[str, ...]:
    """Return why a stream is not moving, in the words of SPEC.md §19."""
    stream = handler.stream
    reasons = [word for why, word in _PAUSES.items() if why in stream.lifecycle.reasons]
    if isinstance(handler, UploadHandler) and handler.committing:
        reasons.append("commit")
    elif isinstance(handler, UploadHandler | PublishHandler) and handler.storing:
        reasons.append("disk")
    if stream.sender is not None and stream.connection is not None:
        if not stream.sender.window.fits(1, 1):
            reasons.append("window")
        elif not stream.connection.credit.fits(1, 1):
            reasons.append("connection_credit")
    attached = stream.connection is not None
    if attached and stream.receiver and not stream.receiver.grant.limit_bytes:
        reasons.append("window")
    return tuple(reasons or (["nothing_to_send"] if stream.outcome is None else []))


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


def run_reasons(run: Run) -> tuple[str, ...]:
    """Return why a run is not producing, in the same words."""
    if run.run_log is not None and run.run_log.failing:
        return ("disk",)
    if run.waiting_for_room:
        return ("consumer",)
    return ("producer",) if run.consumers else ("disconnected",)


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

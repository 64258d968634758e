"""Requests: LIST, STATUS, DELETE, SEAL, CONFIGURE and CANCEL by name (SPEC.md §19)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ackline.proto.connection import Phase
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.messages import (
    Cancel,
    Configure,
    Delete,
    Done,
    List,
    OutcomeKind,
    Seal,
    Status,
)
from ackline.proto.resource import Resource, ResourceKind, parse_resource
from ackline.server import outcomes
from ackline.server.listing import list_resources
from ackline.server.permissions import check_named, check_own
from ackline.server.refusals import Refusal, refusal_of
from ackline.server.status import report_status
from ackline.server.stores.errors import NotFound, StoreError

if TYPE_CHECKING:
    from ackline.proto.messages import Listed, Outcome, StatusReport, Value
    from ackline.proto.notices import Request
    from ackline.server.clients import Client
    from ackline.server.identities import Identity
    from ackline.server.service import Service

__all__ = ["answer_request", "cancel_named"]

log = logging.getLogger(__name__)


async def answer_request(client: Client, request_id: int, message: Request) -> None:
    """Answer one request, unless the client is gone meanwhile."""
    core = client.core
    try:
        reply = await _reply(client, message)
    except Refusal as refusal:
        error = refusal
    except (StoreError, ProtocolViolation) as failure:
        error = refusal_of(failure)
    except Exception:
        log.exception("a request of %s failed", client.peer)
        error = Refusal(Code.INTERNAL_ERROR, "a defect of the server; see its log")
    else:
        if core.phase is not Phase.CLOSED:
            core.reply(request_id, reply)
        return
    if core.phase is not Phase.CLOSED:
        core.refuse_request(
            request_id, error.code, error.text, retry_after=error.retry_after
        )


async def _reply(
    client: Client, message: Request
) -> Listed | StatusReport | Done | Outcome:
    service, who, core = client.service, client.known, client.core
    match message:
        case List():
            return await list_resources(service, who, message, core.peer_payload)
        case Status():
            return await report_status(service, who, message)
        case Delete():
            return await _delete(service, who, message)
        case Seal():
            return await _seal(service, who, message)
        case Configure():
            return await _configure(service, who, message)
        case Cancel():
            return await cancel_named(service, who, message)


async def _delete(service: Service, who: Identity, message: Delete) -> Done:
    target = _only(message.target, ResourceKind.OBJECTS, ResourceKind.LOGS)
    check_named(who, "manage", target)
    if target.kind is ResourceKind.LOGS:
        await service.logs.delete(target.name)
        return Done(f"{target} is deleted")
    count = await service.chunks.delete(target.name, message.version or None)
    return Done(f"{count} version{'s' if count > 1 else ''} of {target} deleted")


async def _seal(service: Service, who: Identity, message: Seal) -> Done:
    target = _only(message.target, ResourceKind.LOGS)
    check_named(who, "manage", target)
    source = await service.logs.open(target.name, create=False)
    outcome = outcomes.ended(
        message.intent, message.code, message.text, source.assigned_id
    )
    standing = await service.logs.seal(target.name, outcomes.record(outcome))
    before = standing != outcomes.record(outcome)
    return Done(f"{target} {'was sealed before' if before else 'is sealed'}")


LARGEST = 2**63
"""What the records can hold is below this."""

_SETTINGS = ("retention_seconds", "retention_bytes")


async def _configure(service: Service, who: Identity, message: Configure) -> Done:
    target = _only(message.target, ResourceKind.LOGS)
    check_named(who, "manage", target)
    settings = message.settings
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"a log has no setting {name!r}; there are {', '.join(_SETTINGS)}",
            )
        _check_number(name, value)
    try:
        source, made = await service.logs.open(target.name, create=False), False
    except NotFound:
        source, made = await service.logs.open(target.name), True
    age = settings.get("retention_seconds", source.record.retention_seconds)
    most = settings.get("retention_bytes", source.record.retention_bytes)
    seconds = None if age is None else float(age)
    size = None if most is None else int(most)
    await service.logs.configure(
        target.name, retention_seconds=seconds, retention_bytes=size
    )
    return Done(
        f"{target} is {'created' if made else 'configured'}:"
        f" it keeps events {_kept(seconds, size)}"
    )


def _kept(seconds: float | None, size: int | None) -> str:
    """Return how long a log keeps its events, for people."""
    limits: list[str] = []
    if seconds is not None:
        limits.append(f"for {seconds:g} s")
    if size is not None:
        limits.append(f"up to {size} bytes")
    return " and ".join(limits) or "for ever"


def _check_number(name: str, value: Value) -> None:
    legal = value is None or (
        isinstance(value, int if name == "retention_bytes" else int | float)
        and not isinstance(value, bool)
        and 0 <= value < LARGEST
    )
    if not legal:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"{name} is {value!r}; it is a number from 0 on, or nil to keep everything",
        )


async def cancel_named(service: Service, who: Identity, message: Cancel) -> Outcome:
    """Cancel an upload or a run by its id; return how it ended, perhaps before.

    Raises:
        Refusal: there is no such thing, or it is not one's own and not permitted.
        StoreError: the records cannot be read or changed.
    """
    target = _only(message.target, ResourceKind.UPLOADS, ResourceKind.RUNS)
    await check_own(service, who, "cancel", target)
    text = message.text or "an operator cancelled"
    if target.kind is ResourceKind.RUNS:
        return await _cancel_run(service, target.name, text)
    handler = service.owners.get(str(target))
    if handler is not None:
        await handler.end(
            OutcomeKind.CANCELLED, Code.CANCELLED_BY_OPERATOR, text, work=True
        )
        if handler.stream.outcome is not None:
            return handler.stream.outcome
    record = await service.chunks.upload(target.name)
    if record is None:
        raise Refusal(Code.NOT_FOUND, f"there is no {target}")
    if record.outcome is not None:
        return outcomes.load(record.outcome)
    position = (await service.chunks.load(target.name)).position
    outcome = outcomes.ended(
        OutcomeKind.CANCELLED, Code.CANCELLED_BY_OPERATOR, text, position
    )
    return outcomes.load(
        await service.chunks.abort(target.name, outcomes.record(outcome))
    )


async def _cancel_run(service: Service, run_id: str, text: str) -> Outcome:
    run = service.runs.get(run_id)
    if run is not None:
        return await run.stop(OutcomeKind.CANCELLED, Code.CANCELLED_BY_OPERATOR, text)
    record = await service.runs.record(run_id)
    if record is None or record.outcome is None:
        raise Refusal(Code.NOT_FOUND, f"there is no runs/{run_id}")
    return outcomes.load(record.outcome)


def _only(target: str, *kinds: ResourceKind) -> Resource:
    resource = parse_resource(target)
    if resource.kind not in kinds:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"{target!r} cannot be asked that; it is for"
            f" {', '.join(f'{kind.value}/' for kind in kinds)}",
        )
    return resource

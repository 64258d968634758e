"""What an identity may reach: its own things, and what it is permitted (SPEC.md §9).

Names are permitted by pattern and refused with `permission_denied`, whether there is
such a thing or not. What has a random id (uploads, runs, sessions) belongs to who made
it; to anybody else it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.resource import Resource, ResourceKind, parse_resource
from ackline.server.refusals import Refusal

if TYPE_CHECKING:
    from ackline.proto.stream import Stream
    from ackline.server.handler import Handler
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.stores.entities import RunRecord

__all__ = [
    "check_named",
    "check_open",
    "check_own",
    "check_resumed",
    "check_run",
    "denied",
]

_OWNED = (ResourceKind.UPLOADS, ResourceKind.RUNS, ResourceKind.SESSIONS)


def check_open(who: Identity, stream: Stream) -> None:
    """Refuse a stream that may not be opened, or not be resumed any more.

    A run is looked at later, by `check_run`, when it is known whose it is.

    Raises:
        Refusal: `permission_denied`.
        ProtocolViolation: what it names is no resource.
    """
    resource = parse_resource(stream.open.resource)
    if resource.kind is not ResourceKind.RUNS:
        check_named(who, stream.use.name.lower(), resource)


def check_named(who: Identity, action: str, resource: Resource) -> None:
    """Refuse what may not be done with something that has a name.

    Raises:
        Refusal: `permission_denied`.
    """
    if not who.may(action, str(resource)):
        raise denied(who, action, resource)


def check_run(who: Identity, run: RunRecord) -> None:
    """Refuse a run that somebody else has started.

    Raises:
        Refusal: `not_found`, as for one that is not there.
    """
    own = run.identity == who.name and who.may("subscribe", f"sources/{run.source}")
    if not own and not who.may("subscribe", f"runs/{run.run_id}"):
        raise _absent(Resource(ResourceKind.RUNS, run.run_id))


def check_resumed(who: Identity, handler: Handler) -> None:
    """Refuse a stream that was opened when its identity was permitted more.

    Raises:
        Refusal: `permission_denied`.
    """
    if not handler.permitted(who):
        raise Refusal(
            Code.PERMISSION_DENIED,
            f"{who.name} has lost its permission: {handler.name}",
        )


async def check_own(
    service: Service, who: Identity, action: str, resource: Resource
) -> None:
    """Refuse a request about something that is neither one's own nor permitted.

    Raises:
        Refusal: `permission_denied`, or `not_found` for what has a random id.
        StoreError: the records cannot be read.
    """
    if who.may(action, str(resource)):
        return
    if resource.kind not in _OWNED:
        raise denied(who, action, resource)
    if await _owner(service, resource) != who.name:
        raise _absent(resource)


def denied(who: Identity, action: str, resource: Resource) -> Refusal:
    """Return the refusal that names what is missing."""
    return Refusal(
        Code.PERMISSION_DENIED, f"{who.name} has no permission {action}:{resource}"
    )


async def _owner(service: Service, resource: Resource) -> str | None:
    if resource.kind is ResourceKind.UPLOADS:
        upload = await service.chunks.upload(resource.name)
        return None if upload is None else upload.parameters.identity
    if resource.kind is ResourceKind.RUNS:
        run = await service.runs.record(resource.name)
        return None if run is None else run.identity
    session = await service.sessions.find(resource.name)
    return None if session is None else session.identity


def _absent(resource: Resource) -> Refusal:
    return Refusal(Code.NOT_FOUND, f"there is no {resource}")

"""What a client asks a server besides streams (SPEC.md §19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from ackline.client.arguments import checked_choice, checked_resource
from ackline.proto.errors import AcklineError
from ackline.proto.frames import FrameType
from ackline.proto.messages import (
    Cancel,
    Configure,
    Delete,
    Done,
    Intent,
    List,
    Listed,
    Outcome,
    Scope,
    Seal,
    Status,
    StatusReport,
)
from ackline.proto.resource import Resource, ResourceKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ackline.client.supervisor import Supervisor
    from ackline.proto.messages import Entry
    from ackline.proto.values import Value

__all__ = ["Operations"]

INTENTS = {
    "completed": Intent.COMPLETED,
    "failed": Intent.FAILED,
    "cancelled": Intent.CANCELLED,
}


class Operations:
    """The methods of `Client` that are one request and its answer."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def list(
        self, prefix: str = "objects/", *, versions: bool = False
    ) -> AsyncIterator[Entry]:
        """Yield the resources whose names begin with `prefix`, in order.

        Args:
            prefix: `objects/`, `logs/`, …, and the beginning of a name.
            versions: yield every version of an object, the oldest first, instead of
                the newest; `facts["version"]` tells which it is.
        """
        message = List(prefix, versions=versions)
        while True:
            reply = await self._supervisor.requests.ask(
                FrameType.LIST, message, about=prefix
            )
            if not isinstance(reply, Listed):
                raise _wrong_answer(reply)
            for entry in reply.entries:
                yield entry
            if not reply.after:
                return
            message = replace(
                message, after=reply.after, after_version=reply.after_version
            )

    async def status(self, target: str, *, version: int = 0) -> StatusReport:
        """Return the state of a resource, and why it is not moving.

        Args:
            target: any resource.
            version: of an object; 0 for the newest.
        """
        reply = await self._supervisor.requests.ask(
            FrameType.STATUS,
            Status(str(checked_resource(target)), version),
            about=target,
        )
        if not isinstance(reply, StatusReport):
            raise _wrong_answer(reply)
        return reply

    async def delete(self, target: str, *, version: int = 0) -> str:
        """Delete an object, one version of it, or a log; return what was done.

        Raises:
            ConnectionLost: the connection was lost before the answer; look whether it
                is gone.
        """
        return _told(
            await self._supervisor.requests.ask(
                FrameType.DELETE,
                Delete(str(checked_resource(target)), version),
                about=target,
                repeatable=False,
            )
        )

    async def seal(
        self,
        log: str,
        *,
        intent: Literal["completed", "failed", "cancelled"] = "completed",
        text: str = "",
    ) -> str:
        """End a log: it takes no more, and its subscribers end after its last event.

        Sealing again changes nothing. Returns which of the two it was.
        """
        resource = Resource.of(ResourceKind.LOGS, log.removeprefix("logs/"))
        message = Seal(
            str(resource), checked_choice("intent", intent, INTENTS), 0, text
        )
        return _told(
            await self._supervisor.requests.ask(
                FrameType.SEAL, message, about=str(resource)
            )
        )

    async def configure(
        self,
        log: str,
        *,
        retention_seconds: float | Literal["unchanged"] | None = "unchanged",
        retention_bytes: int | Literal["unchanged"] | None = "unchanged",
    ) -> str:
        """Create a log, or change how long it keeps its events; return what was done.

        Args:
            log: its name, with or without `logs/`.
            retention_seconds: age at which events may go; None keeps them.
            retention_bytes: size above which the oldest may go; None keeps them.
        """
        resource = Resource.of(ResourceKind.LOGS, log.removeprefix("logs/"))
        settings: dict[str, Value] = {
            "retention_seconds": retention_seconds,
            "retention_bytes": retention_bytes,
        }
        given: dict[str, Value] = {
            name: value for name, value in settings.items() if value != "unchanged"
        }
        return _told(
            await self._supervisor.requests.ask(
                FrameType.CONFIGURE,
                Configure(str(resource), given),
                about=str(resource),
            )
        )

    async def cancel(self, target: str, *, text: str = "") -> Outcome:
        """Cancel a run or an upload, whoever began it; return its outcome.

        If it has ended already, that is the outcome.
        """
        reply = await self._supervisor.requests.ask(
            FrameType.CANCEL,
            Cancel(Scope.WORK, str(checked_resource(target)), text),
            about=target,
        )
        if not isinstance(reply, Outcome):
            raise _wrong_answer(reply)
        return reply

    async def ping(self) -> float:
        """Return the seconds of one round trip to the server."""
        return await self._supervisor.ping()


def _told(reply: object) -> str:
    if not isinstance(reply, Done):
        raise _wrong_answer(reply)
    return reply.text


def _wrong_answer(reply: object) -> AcklineError:
    return AcklineError(f"the server answered with {type(reply).__name__}")

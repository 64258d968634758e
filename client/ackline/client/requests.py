"""LIST, STATUS, DELETE, SEAL, CONFIGURE and CANCEL of a target (SPEC.md §19)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from ackline.client.backoff import REFUSED_FOR_NOW, Backoff
from ackline.proto.errors import AcklineError, ConnectionLost, Refused
from ackline.proto.limits import MAX_REQUESTS
from ackline.proto.messages import Error, Outcome, OutcomeKind

if TYPE_CHECKING:
    from ackline.client.options import ClientOptions
    from ackline.proto.client_connection import ClientConnection
    from ackline.proto.frames import FrameType
    from ackline.proto.notices import Reply

__all__ = ["Requests"]


class Pending(Struct):
    """A request without an answer."""

    kind: FrameType
    message: Struct
    about: str
    repeatable: bool
    sent: bool
    answer: asyncio.Future[Reply]
    backoff: Backoff


class Requests:
    """Asks, and asks again on the next connection where that does no harm."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._connection: ClientConnection | None = None
        self._pending: dict[int, Pending] = {}
        self._next_id = 1
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    @property
    def waiting(self) -> bool:
        """Whether an answer is awaited."""
        return any(pending.sent for pending in self._pending.values())

    async def ask(
        self, kind: FrameType, message: Struct, *, about: str, repeatable: bool = True
    ) -> Reply:
        """Send a request and return its answer.

        Args:
            kind: frame type.
            message: its payload.
            about: the resource it is about, for exceptions.
            repeatable: whether it may be sent again if the connection was lost before
                the answer: asking twice then has the same effect as asking once.

        Raises:
            Refused: the server does not do it.
            ConnectionLost: it is not known whether the server did it.
        """
        async with self._slots:
            loop = asyncio.get_running_loop()
            number, self._next_id = self._next_id, self._next_id + 1
            pending = Pending(
                kind,
                message,
                about,
                repeatable,
                sent=False,
                answer=loop.create_future(),
                backoff=Backoff(
                    self._options.backoff_first, self._options.backoff_last
                ),
            )
            self._pending[number] = pending
            try:
                self._send(number, pending)
                return await pending.answer
            finally:
                del self._pending[number]

    def attached(self, connection: ClientConnection) -> None:
        """Send what waits on a new connection."""
        self._connection = connection
        for number, pending in self._pending.items():
            self._send(number, pending)

    def detached(self) -> None:
        """Take note that the connection is gone."""
        self._connection = None
        for pending in self._pending.values():
            if pending.sent and not pending.repeatable and not pending.answer.done():
                pending.answer.set_exception(
                    ConnectionLost(
                        f"{pending.about}: the connection was lost before the answer"
                        f" to {pending.kind.name}; look whether it was done"
                    )
                )
            pending.sent = False

    def answered(self, number: int, reply: Reply) -> None:
        """Take an answer."""
        pending = self._pending.get(number)
        if pending is None or pending.answer.done():
            return
        if isinstance(reply, Error) and reply.code in REFUSED_FOR_NOW:
            # Not done: so it may be asked again, whatever it is.
            pending.sent = False
            wait = pending.backoff.delay(at_least=reply.retry_after)
            asyncio.get_running_loop().call_later(wait, self._again, number)
        elif isinstance(reply, Error):
            pending.answer.set_exception(
                Refused(
                    reply.code,
                    reply.text,
                    retry=reply.retry,
                    retry_after=reply.retry_after,
                    resource=pending.about,
                )
            )
        elif not (
            isinstance(reply, Outcome) and reply.outcome == OutcomeKind.STILL_STOPPING
        ):
            pending.answer.set_result(reply)

    def fail(self, failure: AcklineError) -> None:
        """End everything that waits."""
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(failure)

    def _again(self, number: int) -> None:
        pending = self._pending.get(number)
        if pending is not None and not pending.sent:
            self._send(number, pending)

    def _send(self, number: int, pending: Pending) -> None:
        if self._connection is not None and not pending.answer.done():
            pending.sent = True
            self._connection.request(pending.kind, number, pending.message)

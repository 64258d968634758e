"""Keeps one connection up, and the session alive over all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from ackline.aio import Pump, ScratchPool
from ackline.client.addresses import Address, parse_url
from ackline.client.backoff import Backoff
from ackline.client.connection_states import ConnectionPhase, ConnectionState
from ackline.client.handles import Handle
from ackline.client.poison import Poison
from ackline.client.requests import Requests
from ackline.proto.client_connection import ClientConnection
from ackline.proto.client_session import ClientSession
from ackline.proto.connection import Phase
from ackline.proto.errors import (
    AcklineError,
    Code,
    ConnectionLost,
    Refused,
    TakenOver,
    UsageError,
    code_name,
)
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_REDIRECTS
from ackline.proto.notices import (
    ConnectionFailed,
    PeerLeft,
    PongReceived,
    Redirected,
    ReplyReceived,
    SessionResumed,
    Welcomed,
)
from ackline.proto.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from ackline.client.options import ClientOptions
    from ackline.proto.messages import GoAway, Limits, Redirect
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream

__all__ = ["Supervisor"]

LONG_ENOUGH = 10.0
"""Seconds after which a connection was of use, whatever it moved (SPEC.md §17)."""

DRAIN_PATIENCE = 10.0
"""Seconds a server that drains without a deadline is given to acknowledge."""

DRAIN_LOOK = 0.01
"""Seconds between two looks at what is outstanding while a server drains."""

PING_LOOK = 0.02
"""Seconds between two looks for a connection that can be pinged."""

STUBBORN = 3
"""Times in a row that the same error, which trying again does not mend, may end a
connection before the client takes it for final."""

FINAL = frozenset({Code.UNAUTHENTICATED, Code.UNSUPPORTED_VERSION})
BAD_TOKENS = frozenset({Code.TOKEN_SUPERSEDED, Code.TOKEN_INVALID})
MOVING_FRAMES = (FrameType.EVENTS, FrameType.CHUNK)


@dataclass(slots=True)
class Attempt:
    """One connection, from the first try to its end."""

    began: float
    moved_before: int
    established: bool = False
    resumed: bool = False
    reason: str = ""
    failed: ConnectionFailed | None = None
    session_code: int = 0
    left: GoAway | None = None
    redirect: Redirect | None = None

    @property
    def retry_after(self) -> float:
        """Seconds the server asked for."""
        asked = [self.failed, self.left, self.redirect]
        return max(each.retry_after if each is not None else 0.0 for each in asked)


class Supervisor:
    """The connection as the rest of the client knows it.

    `run()` connects, waits for the end of the connection, and connects again, until
    `close()` or until nothing can come of it; then every handle and request fails with
    the reason.

    Attributes:
        home, address: the server asked for, and the one it redirected to.
        group: owns every task of the client.
        session: streams and token, over all connections.
        connection: the core of the present connection, or None.
        handles: streams that somebody waits for.
        server_limits: as the server stated them last.
        failure: why there will be no further connection.
        progress: times a position that the server keeps has moved.
        first: done when the first connection is made, or cannot be.
    """

    def __init__(
        self,
        address: Address,
        group: asyncio.TaskGroup,
        *,
        token: str | None,
        options: ClientOptions,
        on_state: Callable[[ConnectionState], None] | None,
    ) -> None:
        self.home = self.address = address
        self.group = group
        self.options = options
        self.session = ClientSession()
        self.stats = Stats()
        self.connection: ClientConnection | None = None
        self.handles: set[Handle] = set()
        self.requests = Requests()
        self.server_limits: Limits | None = None
        self.failure: AcklineError | None = None
        self.progress = 0
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._token = token
        self._on_state = on_state
        self._backoff = Backoff(options.backoff_first, options.backoff_last)
        self._poison = Poison()
        self._scratch = ScratchPool()
        self._agent = f"ackline/{version('ackline')}"
        self._attempt = Attempt(0.0, 0)
        self._pump: Pump | None = None
        self._closing = False
        self._attention = asyncio.Event()
        self._pongs: dict[int, asyncio.Future[bool]] = {}
        self._lost_at = 0.0
        self._redirects = 0
        self._stubborn: tuple[int, int] = (0, 0)

    # For the rest of the client

    def check(self) -> None:
        """Raise if there will be no further connection."""
        if self.failure is not None:
            raise self.failure

    def open(self, stream: Stream) -> None:
        """Open a stream, on the next connection if there is none now."""
        connection = self.connection
        if (
            connection is not None
            and not connection.draining
            and connection.phase in (Phase.GREETED, Phase.OPEN)
        ):
            connection.open(stream)

    def release(self, stream: Stream) -> None:
        """Ask for a stream no more."""
        connection = self.connection
        if connection is not None and stream.connection is connection:
            connection.release(stream)
            return
        stream.released = True
        self.session.forget(stream)
        if stream.receiver is not None:
            stream.receiver.close()

    async def ping(self) -> float:
        """Return the seconds of one round trip, on whatever connection makes one."""
        loop = asyncio.get_running_loop()
        while True:
            self.check()
            connection = self.connection
            if connection is None or connection.phase is not Phase.OPEN:
                await asyncio.sleep(PING_LOOK)
                continue
            began = loop.time()
            number = connection.ping()
            pong = self._pongs[number] = loop.create_future()
            try:
                if await pong:
                    return loop.time() - began
            finally:
                self._pongs.pop(number, None)

    def close(self) -> None:
        """End the session and the connection; `run()` returns soon after."""
        self._closing = True
        self._attention.set()

    async def run(self) -> None:
        """Keep connected until the end."""
        failure: AcklineError = ConnectionLost("the client is closed")
        try:
            await self._keep()
        except AcklineError as error:
            failure = error
        finally:
            self._stop(failure)

    # For the pump

    def pump_made(self, pump: Pump) -> ClientConnection:
        """Make the core of a new connection."""
        loop = asyncio.get_running_loop()
        core = ClientConnection(
            self.session,
            limits=self.options.limits(),
            scratch=self._scratch.for_loop(loop),
            notify=self._notice,
            on_output=pump.on_output,
            now=loop.time(),
            stats=self.stats,
        )
        self._pump, self.connection = pump, core
        bearer = self._token is not None
        core.start(
            agent=self._agent,
            scheme="bearer" if bearer else "",
            credential=(self._token or "").encode(),
        )
        return core

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        """Take note that the connection is closed."""
        if self._pump is not pump:
            return
        self._pump = self.connection = None
        attempt = self._attempt
        attempt.reason = attempt.reason or (
            str(error) if error is not None else "the server closed the connection"
        )
        self.requests.detached()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(False)
        self._attention.set()

    # Private

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        self._lost_at = loop.time()
        while not self._closing:
            await self._quiet()
            self._tell(ConnectionPhase.CONNECTING, attempt=self._backoff.attempts + 1)
            self._attempt = attempt = Attempt(loop.time(), self._moved())
            await self._connect()
            if attempt.established:
                self._established(attempt)
                await self._carry()
                self._lost_at = loop.time()
            if self._closing:
                break
            delay = self._delay(attempt)
            self._tell(
                ConnectionPhase.DISCONNECTED,
                reason=attempt.reason,
                attempt=self._backoff.attempts,
                retry_in=delay,
            )
            await self._sleep(delay)

    async def _connect(self) -> None:
        """Make one connection and wait for the server's first answers."""
        loop = asyncio.get_running_loop()
        attempt = self._attempt
        self._attention.clear()
        try:
            async with asyncio.timeout(self._patience()):
                await loop.create_connection(
                    lambda: Pump(self), self.address.host, self.address.port
                )
                while (
                    not attempt.established
                    and not self._closing
                    and self._pump is not None
                    and attempt.redirect is None
                ):
                    await self._attention.wait()
                    self._attention.clear()
        except TimeoutError:
            attempt.reason = (
                f"{self.address} did not answer within"
                f" {self.options.connect_timeout:g} s; is it an Ackline server?"
            )
        except OSError as error:
            why = error.strerror or str(error)
            attempt.reason = f"cannot connect to {self.address}: {why}"
        self._attention.set()
        if not attempt.established:
            await self._hang_up()

    async def _carry(self) -> None:
        """Wait for the end of an established connection, or bring it about."""
        attempt = self._attempt
        while True:
            await self._attention.wait()
            self._attention.clear()
            connection = self.connection
            if connection is None:
                return
            if attempt.left is not None and not self._closing:
                await self._drain(connection, attempt.left)
            elif not self._closing and attempt.redirect is None:
                continue
            if self._closing:
                connection.go_away()
            await self._hang_up()
            return

    async def _drain(self, connection: ClientConnection, left: GoAway) -> None:
        """Wait until everything sent is acknowledged (SPEC.md §18)."""
        loop = asyncio.get_running_loop()
        self._attempt.reason = f"the server drains: {left.text}"
        end = loop.time() + (left.deadline or DRAIN_PATIENCE)
        while (  # noqa: ASYNC110 - any of many streams may be the last
            self.connection is connection
            and loop.time() < end
            and not self._closing
            and (self.requests.waiting or self._outstanding())
        ):
            await asyncio.sleep(DRAIN_LOOK)

    def _outstanding(self) -> bool:
        return any(
            stream.sender is not None and stream.sender.outstanding
            for stream in self.session.streams.values()
        )

    async def _hang_up(self) -> None:
        pump = self._pump
        if pump is not None:
            pump.close()
            await pump.closed

    async def _quiet(self) -> None:
        """Wait until what was received is on disk: RESUME tells how far that is."""
        while any(  # noqa: ASYNC110 - any of many streams may be the last
            handle.busy for handle in self.handles
        ):
            await asyncio.sleep(DRAIN_LOOK)

    async def _sleep(self, seconds: float) -> None:
        self._attention.clear()
        try:
            async with asyncio.timeout(seconds):
                while not self._closing:
                    await self._attention.wait()
                    self._attention.clear()
        except TimeoutError:
            pass

    def _patience(self) -> float:
        patience = self.options.connect_timeout
        limit = self.options.give_up_after
        if limit is not None:
            spent = asyncio.get_running_loop().time() - self._lost_at
            patience = min(patience, max(limit - spent, 0.05))
        return patience

    def _established(self, attempt: Attempt) -> None:
        phase = ConnectionPhase.CONNECTED
        if attempt.resumed:
            phase = ConnectionPhase.RESUMED
        self._tell(phase, attempt=self._backoff.attempts + 1)
        if not self.first.done():
            self.first.set_result(None)

    def _delay(self, attempt: Attempt) -> float:
        """Return how long to wait after a connection or an attempt at one.

        Raises:
            AcklineError: there is no sense in trying again.
        """
        now = asyncio.get_running_loop().time()
        self._raise_if_final(attempt)
        if attempt.established and (
            self._moved() > attempt.moved_before or now - attempt.began >= LONG_ENOUGH
        ):
            self._backoff.reset()
        if attempt.redirect is not None:
            self._follow(attempt.redirect)
            return attempt.retry_after
        self._redirects = 0
        if attempt.left is not None and attempt.established:
            return attempt.retry_after
        delay = self._backoff.delay(at_least=attempt.retry_after)
        limit = self.options.give_up_after
        if limit is not None and now + delay - self._lost_at > limit:
            raise ConnectionLost(
                f"there was no connection for {limit:g} s: {attempt.reason}"
            )
        return delay

    def _raise_if_final(self, attempt: Attempt) -> None:
        failed = attempt.failed
        if attempt.session_code in BAD_TOKENS:
            raise ConnectionLost(
                "the session cannot be resumed: " + attempt.reason,
                code=attempt.session_code,
            )
        if failed is not None:
            if failed.code == Code.TAKEN_OVER:
                raise TakenOver
            if failed.code in FINAL:
                raise Refused(failed.code, failed.text, resource=str(self.address))
            if attempt.established:
                self._count_failure(failed)
        if not (
            self.first.done()
            or self.options.wait_for_server
            or attempt.redirect is not None
        ):
            code = failed.code if failed is not None else None
            raise ConnectionLost(attempt.reason, code=code)

    def _count_failure(self, failed: ConnectionFailed) -> None:
        """Find what would break every further connection too (SPEC.md §20)."""
        if failed.code in (Code.BAD_CRC, Code.BAD_FRAME):
            self._poison.struck(
                self.handles, failed, self.session.streams.get(failed.stream_id)
            )
            return
        self._poison.clear()
        known = failed.code in Code.__members__.values()
        if failed.retry or (known and Code(failed.code).retry):
            self._stubborn = (0, 0)
            return
        code, times = self._stubborn
        times = times + 1 if code == failed.code else 1
        self._stubborn = (failed.code, times)
        if times >= STUBBORN:
            raise ConnectionLost(
                f"the connection ended {times} times in a row by: {failed.text}",
                code=failed.code,
            )

    def _follow(self, redirect: Redirect) -> None:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise ConnectionLost(
                f"more than {MAX_REDIRECTS} redirects in a row, the last one to"
                f" {redirect.url}"
            )
        try:
            self.address = parse_url(redirect.url)
        except UsageError as error:
            raise ConnectionLost(f"a redirect to nowhere: {error}") from None

    def _notice(self, notice: Notice) -> None:
        """Take a notice of the core, while it handles a frame."""
        stream = cast("Stream | None", getattr(notice, "stream", None))
        if stream is None:
            self._of_connection(notice)
        elif isinstance(stream.context, Handle):
            stream.context.take(notice)

    def _of_connection(self, notice: Notice) -> None:
        match notice:
            case Welcomed(welcome):
                self.server_limits = welcome.limits
                if welcome.session is not None:
                    self._ready()
            case SessionResumed(code, text):
                self._resumed(code, text)
            case ConnectionFailed():
                self._failed(notice)
            case PeerLeft(message):
                self._attempt.left = message
                self._attention.set()
            case Redirected(message):
                self._redirected(message)
            case ReplyReceived(number, reply):
                self.requests.answered(number, reply)
            case _:
                self._pong(notice)

    def _pong(self, notice: Notice) -> None:
        if isinstance(notice, PongReceived):
            pong = self._pongs.get(notice.number)
            if pong is not None and not pong.done():
                pong.set_result(True)

    def _redirected(self, redirect: Redirect) -> None:
        self._attempt.redirect = redirect
        self._attempt.reason = f"redirected to {redirect.url}"
        self._attention.set()

    def _ready(self) -> None:
        assert self.connection is not None
        self._attempt.established = True
        self.requests.attached(self.connection)
        self._attention.set()

    def _resumed(self, code: int, text: str) -> None:
        attempt = self._attempt
        if code in BAD_TOKENS:
            attempt.session_code = code
            attempt.reason = text or code_name(code)
            assert self._pump is not None
            self._pump.abort()
            return
        attempt.resumed = code == 0
        self._ready()
        for handle in tuple(self.handles):
            handle.reattached()

    def _failed(self, failed: ConnectionFailed) -> None:
        attempt = self._attempt
        attempt.failed = failed
        text = f"{code_name(failed.code)}: {failed.text}"
        if self.connection is not None and not self.connection.welcomed:
            text = (
                f"{self.address} refused the connection: {text}"
                if failed.by_peer
                else f"{self.address} is not an Ackline server: {text}"
            )
        attempt.reason = text

    def _moved(self) -> int:
        """Count what only happens when something moves."""
        received = self.stats.frames_received
        return self.progress + sum(received[kind] for kind in MOVING_FRAMES)

    def _tell(
        self,
        phase: ConnectionPhase,
        *,
        reason: str = "",
        attempt: int = 0,
        retry_in: float = 0.0,
    ) -> None:
        if self._on_state is not None:
            self._on_state(
                ConnectionState(
                    phase=phase, reason=reason, attempt=attempt, retry_in=retry_in
                )
            )

    def _stop(self, failure: AcklineError) -> None:
        self.failure = failure
        if not self.first.done():
            self.first.set_exception(failure)
        if self._pump is not None:
            self._pump.abort()
        self.requests.fail(failure)
        for handle in tuple(self.handles):
            handle.fail(failure)
        self._tell(ConnectionPhase.CLOSED, reason=str(failure))

"""Keeps one connection up, and the session alive over all of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from ackline.aio import Pump, PumpProtocol, TlsLayer, shared_scratch
from ackline.client.connection_states import ConnectionPhase, ConnectionState
from ackline.client.handles import Handle
from ackline.client.patience import BAD_TOKENS, Attempt, Patience
from ackline.client.poison import Poison
from ackline.client.requests import Requests
from ackline.client.tls import client_context, plain_fault, tls_fault
from ackline.client.tokens import current
from ackline.proto.client_connection import ClientConnection
from ackline.proto.client_session import ClientSession
from ackline.proto.connection import Phase
from ackline.proto.errors import (
    AcklineError,
    Code,
    ConnectionLost,
    UsageError,
    code_name,
)
from ackline.proto.frames import FrameType
from ackline.proto.limits import ALPN
from ackline.proto.notices import (
    ConnectionFailed,
    PeerLeft,
    PongReceived,
    Redirected,
    ReplyReceived,
    SessionResumed,
    Welcomed,
)
from ackline.proto.reader import scratch_buffer
from ackline.proto.stats import Stats

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ackline.client.addresses import Address
    from ackline.client.options import ClientOptions
    from ackline.client.tokens import Token
    from ackline.proto.messages import GoAway, Limits, Redirect
    from ackline.proto.notices import Notice
    from ackline.proto.stream import Stream

__all__ = ["Supervisor"]

DRAIN_PATIENCE = 10.0
"""Seconds a server that drains without a deadline is given to acknowledge."""

DRAIN_FOR_RUNS = 0.75
"""Part of that time for which runs that would be lost are waited for (SPEC.md §18)."""

DRAIN_LOOK = 0.01
"""Seconds between two looks at what is outstanding while a server drains."""

PING_LOOK = 0.02
"""Seconds between two looks for a connection that can be pinged."""

MOVING_FRAMES = (FrameType.EVENTS, FrameType.CHUNK)


class Supervisor:
    """The connection as the rest of the client knows it.

    `run()` connects, waits for the end of the connection, and connects again, until
    `close()` or until nothing can come of it; then every handle and request fails with
    the reason.

    Attributes:
        home: the server asked for.
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
        tls: ssl.SSLContext | None,
        token: Token | None,
        options: ClientOptions,
        on_state: Callable[[ConnectionState], None] | None,
    ) -> None:
        self.home = address
        self.group = group
        self.options = options
        self.session = ClientSession()
        self.stats = Stats()
        self.connection: ClientConnection | None = None
        self.handles: set[Handle] = set()
        self.requests = Requests(options)
        self.server_limits: Limits | None = None
        self.failure: AcklineError | None = None
        self.progress = 0
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tls = tls
        self._token = token
        self._credential = b""
        self._on_state = on_state
        self._patience = Patience(address, options)
        self._poison = Poison()
        self._encrypted: memoryview | None = None
        self._agent = f"ackline/{_version()}"
        self._attempt = Attempt(0.0)
        self._pump: Pump | None = None
        self._closing = False
        self._attention = asyncio.Event()
        self._pongs: dict[int, asyncio.Future[bool]] = {}

    # For the rest of the client

    @property
    def address(self) -> Address:
        """The server, after redirects."""
        return self._patience.address

    def check(self) -> None:
        """Raise if there will be no further connection."""
        if self.failure is not None:
            # Each time it is raised adds to its traceback.
            raise self.failure.with_traceback(None)

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
            began = time.perf_counter()  # a loop may count in milliseconds
            number = connection.ping()
            pong = self._pongs[number] = loop.create_future()
            try:
                if await pong:
                    return time.perf_counter() - began
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
            scratch=shared_scratch(loop),
            notify=self._notice,
            on_output=pump.on_output,
            now=loop.time(),
            stats=self.stats,
        )
        self._pump, self.connection = pump, core
        core.start(
            agent=self._agent,
            scheme="bearer" if self._credential else "",
            credential=self._credential,
        )
        return core

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        """Take note that the connection is closed."""
        if self._pump is not pump:
            return
        attempt = self._attempt
        attempt.reason = attempt.reason or self._why_lost(error)
        self._pump = self.connection = None
        self.requests.detached()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(False)
        self._attention.set()

    # Private

    async def _keep(self) -> None:
        loop, patience = asyncio.get_running_loop(), self._patience
        patience.lost_at = loop.time()
        while not self._closing:
            await self._quiet()
            self._tell(ConnectionPhase.CONNECTING, attempt=patience.attempt)
            self._attempt = attempt = Attempt(loop.time())
            before = self._moved()
            await self._connect()
            if attempt.established:
                self._established(attempt)
                await self._carry()
                patience.lost_at = loop.time()
            if self._closing:
                break
            attempt.moved = self._moved() > before
            patience.judge(attempt, first=not self.first.done())
            if attempt.failed is not None and attempt.established:
                self._count_failure(attempt.failed)
            delay = patience.delay(attempt, loop.time())
            self._tell(
                ConnectionPhase.DISCONNECTED,
                reason=attempt.reason,
                attempt=patience.attempt - 1,
                retry_in=delay,
            )
            await self._sleep(delay)

    def _count_failure(self, failed: ConnectionFailed) -> None:
        """Find the stream that would break every further connection too."""
        if failed.code in (Code.BAD_CRC, Code.BAD_FRAME):
            culprit = self.session.streams.get(failed.stream_id)
            self._poison.struck(self.handles, failed, culprit)
        else:
            self._poison.clear()

    async def _connect(self) -> None:
        """Make one connection and wait for the server's first answers."""
        loop = asyncio.get_running_loop()
        attempt = self._attempt
        self._attention.clear()
        try:
            async with asyncio.timeout(self._patience.connecting(loop.time())):
                self._credential = await current(self._token)
                await self._dial()
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
        except UsageError as error:  # of a token; a file may come back
            if not self.first.done():
                raise
            attempt.reason = str(error)
        except OSError as error:
            why = tls_fault(error) or error.strerror or str(error)
            attempt.reason = f"cannot connect to {self.address}: {why}"
        self._attention.set()
        if not attempt.established:
            await self._hang_up()

    async def _dial(self) -> None:
        """Connect, and have a pump made."""
        loop, protocol = asyncio.get_running_loop(), PumpProtocol(Pump(self))
        host, port = self.address.host, self.address.port
        if not self.address.tls:
            await loop.create_connection(lambda: protocol, host, port)
            return
        layer = TlsLayer(protocol, *self._secure(), server_hostname=host)
        try:
            await loop.create_connection(lambda: layer, host, port)
            await layer.handshake
        except BaseException:
            layer.abort()
            raise

    def _secure(self) -> tuple[ssl.SSLContext, memoryview]:
        """Return what TLS needs, the same for all connections."""
        if self._tls is None:
            self._tls = client_context()
        if self._encrypted is None:
            # The context may be the caller's, who knows nothing of the protocol.
            self._tls.set_alpn_protocols([ALPN])
            self._encrypted = scratch_buffer()
        return self._tls, self._encrypted

    def _why_lost(self, error: Exception | None) -> str:
        """Return why a connection ended, when the server did not tell."""
        fault = tls_fault(error)
        if fault is None and self.connection is not None:
            fault = plain_fault(self.connection.reader.begun)
        if fault is not None:
            return f"cannot connect to {self.address}: {fault}"
        return str(error) if error is not None else "the server closed the connection"

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
        """Wait for acknowledgements, and a while for runs that die with the server."""
        loop = asyncio.get_running_loop()
        self._attempt.reason = f"the server drains: {left.text}"
        now, patience = loop.time(), left.deadline or DRAIN_PATIENCE
        end, runs_end = now + patience, now + patience * DRAIN_FOR_RUNS
        while (  # noqa: ASYNC110 - any of many streams may be the last
            self.connection is connection
            and (now := loop.time()) < end
            and not self._closing
            and self._outstanding(runs=now < runs_end)
        ):
            await asyncio.sleep(DRAIN_LOOK)

    def _outstanding(self, *, runs: bool) -> bool:
        senders = (stream.sender for stream in self.session.streams.values())
        return (
            any(each is not None and each.outstanding for each in senders)
            or bool(self.requests.waiting)
            or (runs and any(each.dies_with_server for each in self.handles))
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

    def _established(self, attempt: Attempt) -> None:
        phase = ConnectionPhase.CONNECTED
        if attempt.resumed:
            phase = ConnectionPhase.RESUMED
        self._tell(phase, attempt=self._patience.attempt)
        if not self.first.done():
            self.first.set_result(None)

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


def _version() -> str:
    # Imported here: with it, importing the client took 15 ms longer.
    from importlib.metadata import version  # noqa: PLC0415

    return version("ackline")

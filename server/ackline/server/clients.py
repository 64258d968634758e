"""One client's connection: handshake, resume, and whose notices go where."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

from ackline.aio import shared_scratch, subject
from ackline.proto.allowance import COSTS
from ackline.proto.connection import Phase
from ackline.proto.errors import Code, code_name
from ackline.proto.frames import FrameType
from ackline.proto.limits import ALPN
from ackline.proto.messages import Session as WireSession
from ackline.proto.notices import (
    CancelReceived,
    ConnectionFailed,
    HelloReceived,
    OpenReceived,
    PeerLeft,
    ReleaseReceived,
    RequestReceived,
    ResumeReceived,
    SessionConfirmed,
)
from ackline.proto.server_connection import ServerConnection
from ackline.server.about import About
from ackline.server.authentication import Login
from ackline.server.opening import open_stream
from ackline.server.quotas import check_connections
from ackline.server.refusals import Refusal
from ackline.server.requests import answer_request
from ackline.server.resuming import resume_session

if TYPE_CHECKING:
    import ssl

    from ackline.aio import Pump
    from ackline.proto.connection import Connection
    from ackline.proto.messages import Hello
    from ackline.proto.notices import Notice
    from ackline.server.arrivals import Arrival
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.sessions import Session

__all__ = ["AGENT", "Client"]

log = logging.getLogger(__name__)

AGENT = f"ackline-server/{version('ackline')}"
"""What WELCOME says the server is."""


class Client:
    """A connection, from the socket's beginning to its end.

    Attributes:
        core: speaks the protocol.
        peer: address of the client, for logs.
        subject: whom its certificate names, if it showed one that was verified.
        who: whose it is, once HELLO was accepted.
        opening: OPENs that are worked on.
        session: once there is one; None again when another connection takes it.
    """

    __slots__ = (
        "_arrival",
        "_origin",
        "_pump",
        "_refusal",
        "core",
        "opening",
        "peer",
        "service",
        "session",
        "subject",
        "who",
    )

    core: ServerConnection

    def __init__(self, service: Service, arrival: Arrival) -> None:
        self.service = service
        self.peer = ""
        self.subject = ""
        self.who: Identity | None = None
        self.opening = 0
        self.session: Session | None = None
        self._pump: Pump | None = None
        self._arrival: Arrival | None = arrival
        self._origin = arrival.origin
        self._refusal: tuple[Code, str] | None = None
        arrival.proceed(self.turn_away)

    # The pump

    def pump_made(self, pump: Pump) -> Connection:
        """Begin: the client has the rest of `handshake_timeout` to say HELLO."""
        service, loop = self.service, asyncio.get_running_loop()
        self._pump, self.peer = pump, pump.peer
        self.core = ServerConnection(
            limits=service.limits,
            scratch=shared_scratch(loop),
            notify=self.notify,
            on_output=pump.on_output,
            now=loop.time(),
            stats=service.stats,
            pool=service.pool,
            budget=service.budget,
            max_chunks=service.options.max_upload_chunks,
            pressure=service.load.pressure,
        )
        service.connected(self)
        self._look_at_tls(pump.transport.get_extra_info("ssl_object"))
        if self._refusal is not None:
            self.turn_away(*self._refusal)
        elif self._arrival is not None:
            self._arrival.proceed(self.turn_away)
        return self.core

    def pump_lost(self, pump: Pump, error: Exception | None) -> None:
        """End: the streams wait for their client to come back."""
        self.stop_timer()
        why = f": {error}" if error is not None else ""
        log.info("%s closed%s", self.label, why)
        self.detach()
        self.service.disconnected(self)
        self.service.places.leave(self._origin)
        self.core.part()

    def turn_away(self, code: Code, text: str) -> None:
        """End a connection whose client has no session yet, with the reason."""
        if self._pump is None:
            self._refusal = code, text
        else:
            self.core.fail(code, text, retry_after=1.0 if code.retry else 0.0)

    def stop_timer(self) -> None:
        """Take note that the handshake is over."""
        if self._arrival is not None:
            self._arrival.end()
            self._arrival = None

    def detach(self) -> None:
        """Leave the session; its streams have no connection."""
        session, self.session = self.session, None
        if session is not None and session.connection is self.core:
            self.service.sessions.detached(session)
            for handler in session.handlers:
                handler.detached()
                if handler.stream.outcome is None:
                    handler.note(f"lost its connection, at {handler.position}")
                if handler.trace is not None:
                    handler.trace.event("disconnected")

    def close(self) -> None:
        """Write what is left, then close."""
        if self._pump is not None:
            self._pump.close()

    def abort(self) -> None:
        """Close at once."""
        if self._pump is not None:
            self._pump.abort()

    @property
    def known(self) -> Identity:
        """Who it is, once that is known."""
        assert self.who is not None
        return self.who

    @property
    def identity(self) -> str:
        """The name of who it is, once that is known."""
        return "" if self.who is None else self.who.name

    @property
    def label(self) -> About:
        """What it is called in logs."""
        text, session_id = f"connection from {self.peer}", ""
        if self.session is not None:
            session_id = self.session.session_id
            text += f" of session {session_id}"
        identity = self.identity
        return About(text, session=session_id, identity=identity, peer=self.peer)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the socket is closed."""
        assert self._pump is not None
        return self._pump.closed

    def fence(self) -> None:
        """Give the session up to a newer connection (SPEC.md §8.2)."""
        self.core.fail(
            Code.TAKEN_OVER, "a newer connection has the session: use that one"
        )
        self.core.lost()
        self.detach()

    # Notices

    def notify(self, notice: Notice) -> None:
        """Take a notice that is not about one stream."""
        match notice:
            case OpenReceived():
                if self.session is not None:
                    self.session.highest_id = notice.stream.id
                open_stream(self, notice.stream)
            case RequestReceived(request_id=request_id, message=request):
                self.service.tasks.spawn(
                    answer_request(self, request_id, request), f"{self.peer}: request"
                )
            case CancelReceived() | ReleaseReceived():
                notice.stream.notify(notice)
            case ConnectionFailed():
                self._failed(notice)
            case _:
                self._session_notice(notice)

    def _session_notice(self, notice: Notice) -> None:
        match notice:
            case HelloReceived():
                if self._arrival is not None:
                    self._arrival.heard()
                self.service.tasks.spawn(self._hello(notice.hello), "handshake")
            case ResumeReceived():
                self.stop_timer()
                service = self.service
                service.arriving.spend(COSTS[FrameType.RESUME], service.now())
                self.service.tasks.spawn(resume_session(self, notice), "resume")
            case SessionConfirmed():
                if self.session is not None:
                    self.service.sessions.confirm(self.session, notice.epoch)
            case PeerLeft():
                if self.session is not None and notice.message.code == Code.OK:
                    self.service.sessions.end(self.session, "its client left")
            case _:
                pass

    async def _hello(self, hello: Hello) -> None:
        # Not in the reader's call: `welcome()` goes on reading.
        await asyncio.sleep(0)
        core, service = self.core, self.service
        who = await service.authenticator.identify(
            Login(hello.scheme, hello.credential, self.peer, self.subject)
        )
        if core.phase is not Phase.NEW:
            return
        if isinstance(who, str):
            core.fail(Code.UNAUTHENTICATED, who)
            return
        if service.draining:
            core.fail(Code.DRAINING, "the server is going away", retry_after=1.0)
            return
        try:
            check_connections(service, who)
        except Refusal as refusal:
            core.fail(refusal.code, refusal.text, retry_after=refusal.retry_after)
            return
        self.who, core.bucket = who, service.rates.bucket_of(who)
        wire: WireSession | None = None
        if not hello.resume:
            self.session, wire = self.new_session()
            self.stop_timer()
        elif self._arrival is not None:
            self._arrival.missing = "RESUME"
        core.welcome(
            agent=AGENT,
            identity=who.name,
            session=wire,
            ttl=self.service.options.session_ttl,
        )

    def new_session(self) -> tuple[Session, WireSession]:
        """Make a session for this connection."""
        session, token = self.service.sessions.create(self.identity)
        session.connection, session.who = self.core, self.who
        log.info("%s of %s from %s", session.label, self.identity, self.peer)
        self.service.histories.note(
            f"sessions/{session.session_id}",
            f"begun by {self.identity} from {self.peer}",
        )
        return session, WireSession(session.session_id, token, session.epoch)

    def _look_at_tls(self, secured: ssl.SSLObject | None) -> None:
        """Learn from TLS whether it is meant for this protocol, and who asks."""
        if secured is None:
            return
        if secured.selected_alpn_protocol() != ALPN:
            self._refusal = (
                Code.UNSUPPORTED,
                f"TLS is for {ALPN} here, and the client did not name it (ALPN)",
            )
        self.subject = subject(secured.getpeercert() or {})
        if self.service.options.tls_client_ca is not None and not self.subject:
            self._refusal = Code.UNAUTHENTICATED, "the client's certificate has no name"

    def _failed(self, notice: ConnectionFailed) -> None:
        if not self.identity and not notice.by_peer:
            self.service.counters.logins_refused[code_name(notice.code)] += 1
        level = logging.INFO if notice.by_peer else logging.WARNING
        if notice.code in (Code.TAKEN_OVER, Code.DRAINING, Code.HANDSHAKE_TIMEOUT):
            level = logging.INFO
        log.log(
            level,
            "%s ended by %s: %s: %s",
            self.label,
            "the client" if notice.by_peer else "the server",
            code_name(notice.code),
            notice.text,
        )

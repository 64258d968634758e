"""Sessions: what outlives connections, and how a client gets it back (SPEC.md §8)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ackline.proto.messages import Open, decode, encode
from ackline.proto.server_session import ServerSession, Tokens
from ackline.server import outcomes
from ackline.server.about import about_session
from ackline.server.stores.entities import SessionRecord, StreamRecord
from ackline.server.stores.errors import Fenced, NotFound, StoreError, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ackline.proto.messages import Outcome
    from ackline.proto.stream import Stream
    from ackline.server.about import About
    from ackline.server.handler import Handler
    from ackline.server.identities import Identity
    from ackline.server.service import Service
    from ackline.server.stores.entities import StreamKey

__all__ = ["Session", "Sessions", "hash_token", "opened_before"]

log = logging.getLogger(__name__)

TOKEN_BYTES = 32

MOST_EMPTY = 1_000
"""Sessions without a stream and a connection: more would only be what clients left that
connect as often as they can. Who comes back late gets a new one, and misses nothing."""

MOST_MOVED = 1_000
"""Ids of streams that moved, of one session: they tell why a stream is gone when it is
resumed, which otherwise is `unknown_stream`."""

PASSED = 0.001
"""Seconds left of a deadline that passed while no server ran: 0 would be none."""


def hash_token(token: bytes) -> bytes:
    """Return what is kept of a token. It is random, so a plain hash suffices."""
    return hashlib.sha256(token).digest()


class Session(ServerSession):
    """A session and what this server knows about it besides.

    Attributes:
        turning: held by whoever resumes or ends it.
        who: whose client is connected, or was last.
        created: unix seconds.
        recorded: streams of an earlier process that were not asked for yet, by id.
        moved: ids of streams that another session has now, the newest of them.
        on_record: whether the records have it: from its first stream on.
        unsure: whether its newest epoch may be on record though that seemed to fail.
        gone: whether it was ended.
    """

    __slots__ = (
        "created",
        "gone",
        "moved",
        "on_record",
        "recorded",
        "turning",
        "unsure",
        "who",
    )

    def __init__(
        self, session_id: str, identity: str, tokens: Tokens, *, epoch: int = 1
    ) -> None:
        super().__init__(session_id, identity, tokens, epoch=epoch)
        self.turning = asyncio.Lock()
        self.who: Identity | None = None
        self.created = time.time()
        self.recorded: dict[int, StreamRecord] = {}
        # Ids without values: an empty set takes 216 bytes, an empty dict 64.
        self.moved: dict[int, None] = {}
        self.on_record = False
        self.unsure = False
        self.gone = False

    @property
    def known(self) -> Identity:
        """Who the client of a session is that has or had a connection."""
        assert self.who is not None
        return self.who

    @property
    def label(self) -> About:
        """Its stable name, for logs."""
        return about_session(self.session_id, self.identity)

    @property
    def handlers(self) -> list[Handler]:
        """What handles its streams."""
        return [handler_of(stream) for stream in self.streams.values()]


def handler_of(stream: Stream) -> Handler:
    """Return what handles a stream."""
    handler: Handler | None = stream.context
    assert handler is not None
    return handler


class Sessions:
    """All sessions, in memory and on record.

    Records are written in the order of the calls and mostly without waiting: what a
    crash loses of them is a session nobody has been promised anything in. Two writes
    are waited for: that of a stream before its OPENED, and that of a successor token
    before RESUMED.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._by_id: dict[str, Session] = {}
        # Without a connection, the longest first; without streams they are of no use.
        self._waiting: dict[str, Session] = {}
        self._empty: dict[str, Session] = {}
        # Streams of all sessions of an identity: asked for at each OPEN with a quota.
        self._streams = Counter[str]()
        self._store = service.storage.sessions
        # What is written down in the next turn of the event loop, together.
        self._outcomes: dict[StreamKey, bytes] = {}
        self._forgotten: list[StreamKey] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Session]:
        """Return the sessions in memory."""
        return list(self._by_id.values())

    def get(self, session_id: str) -> Session | None:
        """Return a session in memory, or None."""
        return self._by_id.get(session_id)

    def streams_of(self, identity: str) -> int:
        """Return how many streams all sessions of one identity have."""
        return self._streams[identity]

    def add(self, session: Session, stream: Stream) -> None:
        """Add a stream, new or from its record, to a session until it is forgotten."""
        session.streams[stream.id] = stream
        self._streams[session.identity] += 1

    def create(self, identity: str) -> tuple[Session, bytes]:
        """Make a session; return it with its token."""
        token = secrets.token_bytes(TOKEN_BYTES)
        session = Session(secrets.token_hex(16), identity, Tokens(hash_token(token)))
        self._by_id[session.session_id] = session
        return session, token

    async def find(self, session_id: str) -> Session | None:
        """Return a session, from its record if this process does not have it.

        Raises:
            StoreError: the records cannot be read.
        """
        session = self._by_id.get(session_id)
        if session is not None:
            return session
        record = await self._store.load(session_id)
        if record is None:
            return None
        recorded = await self._store.streams(session_id)
        session = self._by_id.get(session_id)
        if session is None:  # nobody was faster
            session = _session_of(record)
            session.recorded = {each.stream_id: each for each in recorded}
            session.detached_at = self._service.now()
            self._by_id[session_id] = session
        return session

    async def advance(self, session: Session) -> bytes:
        """Raise the epoch and issue a successor; return its token.

        Raises:
            StoreError: that could not be recorded.
        """
        token = secrets.token_bytes(TOKEN_BYTES)
        session.tokens.issue(hash_token(token))
        if not session.on_record:
            session.epoch += 1
            return token
        try:
            await self._advance(session)
        except NotFound:
            # Its first record failed, on a full disk perhaps; memory still has it.
            log.warning("%s is not on record", session.label)
            session.epoch += 1
            await self._store.save(_record_of(session))
        except StoreFailed:
            session.unsure = True
            raise
        session.unsure = False
        return token

    def confirm(self, session: Session, epoch: int) -> None:
        """Take note that the client has stored the newest token."""
        if epoch == session.epoch and session.tokens.successor is not None:
            session.tokens.confirm()
            if session.on_record:
                self._save(session)

    def detached(self, session: Session) -> None:
        """Take note that the session has no connection."""
        session.connection = None
        session.detached_at = self._service.now()
        if session.gone:  # its client said goodbye
            return
        if session.on_record:
            self._background(
                self._store.touch([session.session_id], time.time()), "touch session"
            )
        if session.streams or session.recorded:
            _bounded(
                self, self._waiting, session, self._service.options.max_connections
            )
        else:
            _bounded(self, self._empty, session, MOST_EMPTY)

    async def opened(self, session: Session, stream: Stream, target: str) -> None:
        """Record a stream before OPENED says that it is there.

        Raises:
            StoreError: that failed; the stream could not be resumed after a restart.
        """
        record = StreamRecord(
            session_id=session.session_id,
            stream_id=stream.id,
            use=int(stream.use),
            open_message=encode(_dated(stream.open)),
            target=target,
        )
        if not session.on_record:
            session.on_record = True
            self._save(session)  # is written before what follows
        try:
            await self._store.save_stream(record)
        except NotFound:
            if session.gone:
                raise
            # Its first record failed, on a full disk perhaps; memory still has it.
            await self._store.save(_record_of(session))
            await self._store.save_stream(record)

    def ended(self, session: Session, stream: Stream, outcome: Outcome) -> None:
        """Record the outcome of a stream, to be told to a client that comes late."""
        self._write_soon()
        self._outcomes[session.session_id, stream.id] = outcomes.record(outcome)

    def forget(
        self,
        session: Session,
        stream: Stream,
        *,
        moved: bool = False,
        abandoned: bool = True,
        why: str = "its client let it go",
    ) -> None:
        """Forget a stream.

        Args:
            session: whose.
            stream: which.
            moved: whether another stream has what it was about.
            abandoned: whether the client wants it no more.
            why: for its history, if it has no outcome.
        """
        if session.streams.get(stream.id) is not stream:
            return
        handler = handler_of(stream)
        if stream.outcome is None and not moved:
            handler.note(f"{why}, at {handler.position}")
        del session.streams[stream.id]
        self._streams[session.identity] -= 1
        if not self._streams[session.identity]:
            del self._streams[session.identity]
        if moved:
            session.moved[stream.id] = None
            if len(session.moved) > MOST_MOVED:
                del session.moved[next(iter(session.moved))]
        connection = stream.connection
        if connection is not None and stream.id in connection.streams:
            self._service.connection_of(stream).drop(stream)
        handler.release(abandoned=abandoned and not moved)
        self.forget_recorded(session, [stream.id])

    def forget_recorded(self, session: Session, stream_ids: list[int]) -> None:
        """Forget the records of streams."""
        self._write_soon()
        for stream_id in stream_ids:
            session.recorded.pop(stream_id, None)
            self._forgotten.append((session.session_id, stream_id))

    def end(self, session: Session, why: str) -> None:
        """End a session and release its streams; their histories say why."""
        if session.gone:
            return
        session.gone = True
        for where in (self._by_id, self._waiting, self._empty):
            where.pop(session.session_id, None)
        for stream in list(session.streams.values()):
            self.forget(session, stream, why=why)
        if session.on_record:
            self._background(self._store.delete(session.session_id), "delete session")
        log.info("%s has ended", session.label)

    async def expire(self) -> None:
        """End the sessions whose clients did not come back in time.

        Raises:
            StoreError: the records cannot be changed.
        """
        ttl, now = self._service.options.session_ttl, self._service.now()
        attached: list[str] = []
        for session in self.all():
            if session.connection is not None or session.turning.locked():
                attached.append(session.session_id)
            elif now - session.detached_at >= ttl:
                log.info("%s has expired", session.label)
                self.end(session, "its client did not come back in time")
        if attached:
            await self._store.touch(attached, time.time())
        await self._store.expire(self._service.storage.clock.before(ttl))

    async def _advance(self, session: Session) -> None:
        for attempt in range(2):
            try:
                record = await self._store.advance(
                    session.session_id,
                    session.epoch,
                    token_hash=session.tokens.current,
                    successor_hash=session.tokens.successor,
                    touched=time.time(),
                )
            except Fenced as error:
                if attempt or not session.unsure:
                    raise
                # It was this process: the attempt that failed is on record after all.
                session.epoch = error.current
            else:
                session.epoch = record.epoch
                return

    def _write_soon(self) -> None:
        if not self._outcomes and not self._forgotten:
            self._background(self._write(), "record ends of streams")

    async def _write(self) -> None:
        ended, self._outcomes = self._outcomes, {}
        forgotten, self._forgotten = self._forgotten, []
        for stream in forgotten:
            ended.pop(stream, None)
        if ended:
            await self._store.end_streams(ended)
        if forgotten:
            await self._store.delete_streams(forgotten)

    def _save(self, session: Session) -> None:
        self._background(self._store.save(_record_of(session)), "save session")

    def _background(self, coroutine: Coroutine[Any, Any, object], what: str) -> None:
        self._service.tasks.spawn(_attempt(coroutine, what), what)


def opened_before(record: StreamRecord) -> Open:
    """Return what opened a stream in an earlier process; its deadline goes on."""
    message = decode(Open, record.open_message)
    if not message.deadline:
        return message
    return replace(message, deadline=max(message.deadline - time.time(), PASSED))


def _dated(message: Open) -> Open:
    """Return an OPEN whose deadline is a time of day, as it is kept."""
    if not message.deadline:
        return message
    return replace(message, deadline=time.time() + message.deadline)


def _bounded(
    sessions: Sessions, waiting: dict[str, Session], session: Session, most: int
) -> None:
    """Add a session to those that wait for their clients; the longest go for it."""
    waiting.pop(session.session_id, None)
    waiting[session.session_id] = session
    while len(waiting) > most:
        oldest = waiting.pop(next(iter(waiting)))
        if oldest.connection is None and not oldest.turning.locked():
            sessions.end(oldest, "too many others wait for their clients")


async def _attempt(coroutine: Coroutine[Any, Any, object], what: str) -> None:
    try:
        await coroutine
    except NotFound:
        pass  # the session or stream is gone meanwhile: nothing is left to record
    except StoreError as error:
        log.warning("%s: %s", what, error)


def _record_of(session: Session) -> SessionRecord:
    return SessionRecord(
        session_id=session.session_id,
        identity=session.identity,
        epoch=session.epoch,
        token_hash=session.tokens.current,
        successor_hash=session.tokens.successor,
        created=session.created,
        touched=time.time(),
    )


def _session_of(record: SessionRecord) -> Session:
    session = Session(
        record.session_id,
        record.identity,
        Tokens(record.token_hash, record.successor_hash),
        epoch=record.epoch,
    )
    session.created = record.created
    session.on_record = True
    return session

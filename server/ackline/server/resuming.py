"""RESUME: a session and its streams on a new connection (SPEC.md §8.2)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ackline.proto.connection import Phase
from ackline.proto.errors import Code, ProtocolViolation, code_name
from ackline.proto.messages import ResumedStream
from ackline.proto.messages import Session as WireSession
from ackline.proto.server_session import TokenCheck, resume_stream
from ackline.proto.stream import Stream
from ackline.server import outcomes
from ackline.server.about import about_session
from ackline.server.opening import handler_for
from ackline.server.permissions import check_resumed
from ackline.server.refusals import Refusal, refusal_of
from ackline.server.sessions import handler_of, hash_token, opened_before
from ackline.server.stores.errors import Fenced, StoreError

if TYPE_CHECKING:
    from ackline.proto.messages import ResumeStream
    from ackline.proto.notices import ResumeReceived
    from ackline.server.clients import Client
    from ackline.server.sessions import Session

__all__ = ["resume_session"]

log = logging.getLogger(__name__)


async def resume_session(client: Client, notice: ResumeReceived) -> None:
    """Answer RESUME, with the session it names or with a new one."""
    try:
        code, text = await _resume(client, notice)
    except StoreError as error:
        about = about_session(notice.session_id, client.identity, client.peer)
        log.error("%s cannot be resumed: %s", about, error)
        client.core.fail(Code.STORAGE_FAILED, f"the session cannot be resumed: {error}")
        return
    client.service.counters.sessions_resumed[
        code_name(code) if code else "resumed"
    ] += 1
    if not code or client.core.phase is Phase.CLOSED:
        return
    about = about_session(notice.session_id, client.identity, client.peer)
    log.info("%s not resumed: %s", about, code_name(code))
    client.session, wire = client.new_session()
    client.stop_timer()
    client.core.resumed(wire, [], [], code=code, text=text)


async def _resume(client: Client, notice: ResumeReceived) -> tuple[int, str]:
    session = await client.service.sessions.find(notice.session_id)
    if session is None or session.identity != client.identity:
        return Code.UNKNOWN_SESSION, "there is no such session: open the streams again"
    async with session.turning:
        if session.gone:
            return Code.UNKNOWN_SESSION, "the session has ended: open the streams again"
        match session.tokens.present(hash_token(notice.token)):
            case TokenCheck.SUPERSEDED:
                return Code.TOKEN_SUPERSEDED, "a newer token of the session was used"
            case TokenCheck.INVALID:
                return Code.TOKEN_INVALID, "this is not a token of the session"
            case TokenCheck.VALID:
                await _attach(client, session, notice.streams)
    return 0, ""


async def _attach(client: Client, session: Session, wanted: list[ResumeStream]) -> None:
    """Move a session to a connection, once everything of the old one is settled."""
    core, sessions = client.core, client.service.sessions
    session.who = client.who
    if session.connection is not None:
        client.service.client_of(session.connection).fence()
    named = {each.stream_id for each in wanted}
    _release_unnamed(client, session, named)
    refusals = await asyncio.gather(*(_settle(client, session, w) for w in wanted))
    try:
        token = await sessions.advance(session)
    except Fenced as error:
        log.warning("%s: %s", session.label, error)
        core.fail(Code.TAKEN_OVER, "a newer connection has the session")
        return
    if core.phase is Phase.CLOSED or session.gone:
        return  # the client is gone again; it comes back with either token
    _answer(client, session, list(zip(wanted, refusals, strict=True)), token)


def _release_unnamed(client: Client, session: Session, named: set[int]) -> None:
    """Release the streams the client asks for no more."""
    sessions = client.service.sessions
    for stream_id, stream in list(session.streams.items()):
        if stream_id not in named:
            sessions.forget(session, stream)
    unnamed = [each for each in session.recorded if each not in named]
    if unnamed:
        sessions.forget_recorded(session, unnamed)


async def _settle(
    client: Client, session: Session, wanted: ResumeStream
) -> Refusal | None:
    """Make a stream ready to be resumed; return why that cannot be, or None."""
    stream = session.streams.get(wanted.stream_id)
    try:
        if stream is None:
            await _rebuild(client, session, wanted)
        stream = session.streams.get(wanted.stream_id)
        if stream is not None:
            check_resumed(session.known, handler_of(stream))
        if stream is not None and stream.outcome is None:
            await handler_of(stream).settle(wanted)
    except Refusal as refusal:
        return refusal
    except (StoreError, ProtocolViolation) as error:
        return refusal_of(error)
    except Exception:
        number = wanted.stream_id
        log.exception("stream %d of %s cannot be resumed", number, session.label)
        return Refusal(Code.INTERNAL_ERROR, "a defect of the server; see its log")
    return None


async def _rebuild(client: Client, session: Session, wanted: ResumeStream) -> None:
    """Make a stream of an earlier process again, from its record."""
    stream_id = wanted.stream_id
    if stream_id in session.moved:
        raise Refusal(Code.MOVED, "it was opened again with the same key")
    record = session.recorded.pop(stream_id, None)
    if record is None:
        raise Refusal(Code.UNKNOWN_STREAM, "the session has no such stream")
    stream = Stream(stream_id, opened_before(record), notify=_ignore)
    stream.opened = True
    handler = handler_for(client.service, session, stream)
    try:
        if record.outcome is not None:
            handler.end_as_recorded(outcomes.load(record.outcome))
        else:
            await handler.rebuild(record)
    except BaseException:
        handler.refused()
        raise
    client.service.sessions.add(session, stream)
    handler.opened()
    log.info("%s is back after a restart", handler.label)
    handler.note("is back after a restart of the server")


def _answer(
    client: Client,
    session: Session,
    wanted: list[tuple[ResumeStream, Refusal | None]],
    token: bytes,
) -> None:
    """Send RESUMED; the session is on this connection from here on."""
    core = client.core
    answers: list[ResumedStream] = []
    going: list[Stream] = []
    for each, refusal in wanted:
        answer = _resume_one(client, session, each, refusal)
        answers.append(answer)
        if not answer.code:
            going.append(session.streams[each.stream_id])
    named = (each.stream_id for each, _refusal in wanted)
    core.highest_id = session.highest_id = max(
        [core.highest_id, session.highest_id, *session.recorded, *named]
    )
    session.connection = core
    client.session = session
    client.stop_timer()
    for stream in going:
        if stream.outcome is None:
            handler = handler_of(stream)
            handler.attached()
            handler.note(f"resumed from {client.peer}, at {handler.position}")
            if handler.trace is not None:
                handler.trace.event("resumed")
    client.service.histories.note(
        f"sessions/{session.session_id}", f"resumed from {client.peer}"
    )
    log.info(
        "%s resumed from %s with %d streams",
        session.label,
        client.peer,
        len(going),
    )
    core.resumed(WireSession(session.session_id, token, session.epoch), answers, going)


def _resume_one(
    client: Client, session: Session, wanted: ResumeStream, refusal: Refusal | None
) -> ResumedStream:
    stream = session.streams.get(wanted.stream_id)
    if refusal is None and stream is None:
        refusal = Refusal(Code.UNKNOWN_STREAM, "the stream was released meanwhile")
        if wanted.stream_id in session.moved:
            refusal = Refusal(Code.MOVED, "it was opened again with the same key")
    if refusal is not None or stream is None:
        assert refusal is not None
        answer = ResumedStream(wanted.stream_id, refusal.code, refusal.text, None)
    else:
        answer = resume_stream(stream, wanted, client.core)
    if answer.code:
        log.warning(
            "stream %d of %s is not resumed: %s: %s",
            wanted.stream_id,
            session.label if stream is None else handler_of(stream).label,
            code_name(answer.code),
            answer.text,
        )
        if answer.code == Code.POSITION_LOST:
            client.service.counters.position_lost += 1
        if stream is not None:
            client.core.forget(stream)
            client.service.sessions.forget(
                session,
                stream,
                abandoned=False,
                why=f"not resumed: {code_name(answer.code)}: {answer.text}",
            )
    return answer


def _ignore(_notice: object) -> None:
    """Take the notices of a stream that has no handler yet: there are none."""

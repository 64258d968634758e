"""Random operations that are records alone: runs and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ackline.proto.errors import Code
from ackline.proto.messages import Outcome, OutcomeKind
from ackline.server.outcomes import record
from ackline.server.stores.entities import RunRecord, SessionRecord, StreamRecord
from tests.crash.facts import GONE
from tests.crash.operations import Operations

if TYPE_CHECKING:
    from tests.crash.facts import Key

__all__ = ["RecordOperations"]

_COMPLETED = record(Outcome(OutcomeKind.COMPLETED, Code.OK, "", 0, 0))
_FAILED = record(Outcome(OutcomeKind.FAILED, Code.SOURCE_FAILED, "", 0, 0))


class RecordOperations(Operations):
    """Runs, sessions and their streams, checkpoints."""

    async def _run(self) -> None:
        run_id = f"run {self._rng.randrange(4)}"
        key: Key = ("run", run_id)
        with self._only(key) as free:
            if not free:
                return
            value, runs = self._facts.value(*key), self._storage.runs
            if value == GONE:
                made = RunRecord(
                    run_id=run_id,
                    source="build",
                    parameters=b"",
                    identity="alice",
                    key="",
                    generation=self._rng.getrandbits(64),
                    created=self._clock.now,
                    durable=True,
                )
                await self._change({key: None}, runs.create(made))
            elif value is None:
                await self._change({key: _FAILED}, runs.finish(run_id, _FAILED))
            else:
                await self._change({key: GONE}, runs.forget([run_id]))

    async def _session(self) -> None:
        session_id = f"session {self._rng.randrange(3)}"
        key: Key = ("session", session_id)
        with self._only(key) as free:
            if not free:
                return
            value = self._facts.value(*key)
            if value == GONE:
                await self._new_session(key)
            elif isinstance(value, tuple):
                await self._use_session(key, value[0])

    async def _new_session(self, key: Key) -> None:
        made = SessionRecord(
            session_id=key[1],
            identity="alice",
            epoch=1,
            token_hash=b"1",
            successor_hash=None,
            created=self._clock.now,
            touched=self._clock.now,
        )
        await self._change({key: (1, b"1")}, self._storage.sessions.save(made))

    async def _use_session(self, key: Key, epoch: int) -> None:
        sessions, session_id = self._storage.sessions, key[1]
        numbers = [
            each
            for each, value in self._facts.values.items()
            if each[:2] == ("stream", session_id) and value != GONE
        ]
        match self._rng.randrange(8):
            case 0:
                values: dict[Key, object] = dict.fromkeys((key, *numbers), GONE)
                await self._change(values, sessions.delete(session_id))
            case 1 | 2 | 3:
                token = self._rng.randbytes(4)
                operation = sessions.advance(
                    session_id,
                    epoch,
                    token_hash=token,
                    successor_hash=None,
                    touched=self._clock.now,
                )
                await self._change({key: (epoch + 1, token)}, operation)
            case 4 | 5 if numbers:
                stream = self._rng.choice(numbers)
                named = session_id, int(stream[2])
                if self._facts.value(*stream) is None:
                    ended = sessions.end_streams({named: _COMPLETED})
                    await self._change({stream: _COMPLETED}, ended)
                else:
                    released = sessions.delete_streams([named])
                    await self._change({stream: GONE}, released)
            case _:
                number = self._rng.getrandbits(30)
                made = StreamRecord(
                    session_id=session_id,
                    stream_id=number,
                    use=1,
                    open_message=b"",
                    target="",
                )
                await self._change(
                    {("stream", session_id, str(number)): None},
                    sessions.save_stream(made),
                )

    async def _checkpoint(self) -> None:
        await self._quietly(self._storage.checkpoint())

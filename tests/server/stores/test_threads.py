from __future__ import annotations

import asyncio
import threading

import pytest

from ackline.server.stores.threads import Threads, uninterrupted


async def test_cancelled_call_is_waited_for() -> None:
    threads = Threads("test", 1)
    gate, buffer = threading.Event(), bytearray(1)

    def use_buffer() -> None:
        assert gate.wait(10)
        buffer[0] = 1

    call = asyncio.ensure_future(threads.run(use_buffer))
    await asyncio.sleep(0.01)
    for _ in range(2):  # an impatient caller changes nothing
        call.cancel()
        await asyncio.sleep(0.01)
        assert not call.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert buffer[0] == 1
    threads.close()


async def test_error_of_a_cancelled_call_is_not_reported_as_forgotten() -> None:
    threads = Threads("test", 1)
    gate = threading.Event()

    def fail() -> None:
        assert gate.wait(10)
        raise OSError

    call = asyncio.ensure_future(threads.run(fail))
    await asyncio.sleep(0.01)
    call.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    threads.close()


async def test_uninterrupted_reaches_its_end() -> None:
    steps: list[int] = []

    async def work() -> None:
        steps.append(1)
        await asyncio.sleep(0.02)
        steps.append(2)

    task = asyncio.ensure_future(uninterrupted(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == [1, 2]

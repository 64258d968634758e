from __future__ import annotations

import asyncio
import threading
import weakref

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


async def test_calls_run_side_by_side_up_to_the_count_and_the_rest_wait() -> None:
    threads = Threads("test", 2)
    both, gate = threading.Barrier(3), threading.Event()

    def meet() -> None:
        both.wait(10)
        assert gate.wait(10)

    calls = [threads.submit(meet) for _ in range(2)]
    third = threads.submit(threading.current_thread)
    await asyncio.to_thread(both.wait, 10)
    assert not third.done()
    gate.set()
    await asyncio.gather(*calls)
    assert (await third).name == "test"
    threads.close()


async def test_closing_waits_for_what_was_started_and_refuses_the_rest() -> None:
    threads = Threads("test", 1)
    calls = [threads.submit(int, text) for text in ("1", "2", "no")]
    threads.close()
    assert [call.result() for call in calls[:2]] == [1, 2]
    with pytest.raises(ValueError, match="no"):
        calls[2].result()
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(int)


async def test_a_thread_keeps_nothing_of_a_call_that_is_done() -> None:
    class Buffer:
        pass

    threads = Threads("test", 1)
    held = Buffer()
    gone = weakref.ref(held)
    await threads.run(repr, held)
    del held
    await threads.run(int)  # the thread has gone on
    assert gone() is None
    threads.close()

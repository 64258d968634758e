"""What the server does in the background."""

from __future__ import annotations

import asyncio
from functools import partial

from ackline.server.tasks import CALLS_A_TURN, Tasks


async def test_calls_that_come_together_are_spread_over_turns_of_the_loop() -> None:
    tasks, called = Tasks(), list[int]()
    for number in range(3 * CALLS_A_TURN - 1):
        tasks.soon(partial(called.append, number))
    most, before, turns = 0, 0, 0
    while len(called) < 3 * CALLS_A_TURN - 1:
        await asyncio.sleep(0)
        most, before = max(most, len(called) - before), len(called)
        turns += 1
        assert turns < 10
    assert most == CALLS_A_TURN
    assert called == sorted(called)
    tasks.soon(partial(called.append, -1))  # and it goes on with what comes later
    await asyncio.sleep(0)
    assert called[-1] == -1


async def test_what_is_called_may_ask_for_more() -> None:
    tasks, called = Tasks(), list[str]()

    def first() -> None:
        called.append("first")
        tasks.soon(partial(called.append, "second"))

    tasks.soon(first)
    for _ in range(3):
        await asyncio.sleep(0)
    assert called == ["first", "second"]

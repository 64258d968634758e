"""A few seconds of `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.soak.__main__ import Soak
from tests.soak.account import Account
from tests.soak.health import Life
from tests.soak.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_account_of_a_short_run_comes_out(tmp_path: Path) -> None:
    account = await Soak(3.0, 5, tmp_path).run()
    assert account.faults == []
    assert "uploads" in account.lines[0]


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    for number in range(3):
        journal.note("sent", number=number)
    journal.note("stored", number=0, again=0)
    journal.note("verified", number=0)
    journal.note("refused", number=1, code=86)
    journal.note(
        "run",
        source="kept",
        wanted=10,
        produced=10,
        received=7,
        left=[1, 1, 0],
        lost="",
    )
    account = Account()
    account.add_uploads([path])
    account.add_log("a", published=10, received=9, trimmed=0)
    account.add_runs([path])
    account.add_faults([path])
    assert [fault.partition(":")[0] for fault in account.faults] == [
        "uploads",
        "log a",
        "the sums of a run differ",
        "a did not stop",
    ]


@pytest.mark.parametrize(
    ("course", "grows"),
    [
        ([44, 83, 95, 97, 100, 102, 102, 102, 106, 106], False),
        ([46, 94, 98, 105, 108, 115, 120, 123, 125, 130], True),
    ],
)
def test_a_server_that_grows_for_minutes_is_found(
    course: list[int], *, grows: bool
) -> None:
    # Of the soaks before and after its garbage was collected, in MiB.
    seconds = range(0, 1000, 5)
    points = [(float(at), course[at // 100] * 2**20, 33) for at in seconds]
    assert bool(Life(0.0, points).faults()) is grows

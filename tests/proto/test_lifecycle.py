"""The lifecycle of a stream (`SPEC.md §14`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.errors import UsageError
from ackline.proto.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    Input,
    Lifecycle,
    PauseReason,
    State,
)
from ackline.proto.messages import OutcomeKind

SPEC = Path(__file__).parents[2] / "SPEC.md"

DISCONNECTED = PauseReason.DISCONNECTED
BY_CLIENT = PauseReason.BY_CLIENT


def state_of(life: Lifecycle) -> State:
    """Return the state; a type checker takes an attribute as unchanged by calls."""
    return life.state


def printed_table() -> dict[tuple[State, Input], State]:
    """Return the table of SPEC.md §14."""
    text = SPEC.read_text(encoding="utf-8")
    table = text.partition("<!-- lifecycle table")[2].partition("<!-- end -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    inputs = [Input(name) for name in rows[0][1:]]
    return {
        (State(state), moved_by): State(cell)
        for state, *cells in rows[2:]
        for moved_by, cell in zip(inputs, cells, strict=True)
    }


def test_table_is_the_one_spec_14_prints() -> None:
    assert printed_table() == TRANSITIONS


def test_table_knows_every_state_and_input() -> None:
    assert set(TRANSITIONS) == {(state, each) for state in State for each in Input}


def test_no_input_leaves_a_terminal_state() -> None:
    for (state, _), following in TRANSITIONS.items():
        assert (following is state) or state not in TERMINAL


def test_stream_begins_with_its_first_unit() -> None:
    life = Lifecycle()
    assert state_of(life) is State.CREATED
    life.unit()
    life.unit()
    assert state_of(life) is State.STREAMING


def test_reconnect_does_not_clear_an_explicit_pause() -> None:
    life = Lifecycle()
    life.unit()
    life.pause(BY_CLIENT)
    life.pause(DISCONNECTED)
    life.continue_(DISCONNECTED)
    assert state_of(life) is State.PAUSED
    life.continue_(BY_CLIENT)
    assert state_of(life) is State.STREAMING


def test_pause_before_the_first_unit_holds_after_it() -> None:
    life = Lifecycle()
    life.pause(BY_CLIENT)
    assert state_of(life) is State.CREATED
    life.unit()
    assert state_of(life) is State.PAUSED


def test_pause_taken_back_before_the_first_unit_is_forgotten() -> None:
    life = Lifecycle()
    life.pause(BY_CLIENT)
    life.continue_(BY_CLIENT)
    life.unit()
    assert state_of(life) is State.STREAMING


def test_units_in_flight_leave_a_stream_paused() -> None:
    life = Lifecycle()
    life.unit()
    life.pause(BY_CLIENT)
    life.unit()
    assert state_of(life) is State.PAUSED


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (OutcomeKind.COMPLETED, State.COMPLETED),
        (OutcomeKind.FAILED, State.FAILED),
        (OutcomeKind.CANCELLED, State.CANCELLED),
    ],
)
def test_stream_without_units_can_end(kind: OutcomeKind, state: State) -> None:
    life = Lifecycle()
    assert life.end(kind)
    assert state_of(life) is state
    assert life.ended


def test_first_outcome_wins() -> None:
    life = Lifecycle()
    assert life.end(OutcomeKind.CANCELLED)
    assert not life.end(OutcomeKind.COMPLETED)
    life.unit()
    assert state_of(life) is State.CANCELLED


def test_still_stopping_ends_nothing() -> None:
    life = Lifecycle()
    with pytest.raises(UsageError):
        life.end(OutcomeKind.STILL_STOPPING)
    assert not life.ended


moves = st.lists(
    st.one_of(
        st.just(("unit", None)),
        st.tuples(
            st.sampled_from(["pause", "continue_"]), st.sampled_from(PauseReason)
        ),
        st.tuples(st.just("end"), st.sampled_from(list(OutcomeKind)[1:])),
    ),
    max_size=20,
)


@given(moves)
def test_state_follows_from_units_reasons_and_first_outcome(
    steps: list[tuple[str, PauseReason | OutcomeKind | None]],
) -> None:
    life = Lifecycle()
    begun, reasons, outcome = False, set[PauseReason](), None
    for name, argument in steps:
        getattr(life, name)(*([] if argument is None else [argument]))
        if name == "unit":
            begun = True
        elif isinstance(argument, OutcomeKind):
            outcome = outcome or argument
        elif isinstance(argument, PauseReason):
            (reasons.add if name == "pause" else reasons.discard)(argument)
    if outcome is not None:
        expected = State[outcome.name]
    elif not begun:
        expected = State.CREATED
    else:
        expected = State.PAUSED if reasons else State.STREAMING
    assert state_of(life) is expected
    assert life.reasons == reasons

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.proofs import ProofSum
from ackline.server.stores.entities import PublisherState
from ackline.server.stores.publishers import Publishers

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
states = st.builds(PublisherState, u64, u64, st.builds(ProofSum, u64, u32, u32), u64)


@given(st.lists(st.tuples(st.text(max_size=3), states)), st.integers(1, 5))
def test_checkpoint_restores_states_and_order(
    puts: list[tuple[str, PublisherState]], limit: int
) -> None:
    publishers = Publishers(limit)
    for name, state in puts:
        publishers.put(name, state)
    restored = Publishers(limit)
    restored.restore(publishers.checkpoint())
    for either in (publishers, restored):
        either.put("a new one", PublisherState(1, 1, ProofSum(), 1))
    assert restored._states == publishers._states
    assert list(restored._states) == list(publishers._states)
    assert len(restored) <= limit


def test_epochs_given_out_are_not_taken_back() -> None:
    earlier, later = Publishers(9), Publishers(9)
    assert [earlier.raise_epoch("a") for _ in range(3)] == [1, 2, 3]
    later.put("a", PublisherState(2, 10, ProofSum(5), 20))
    later.put("b", PublisherState(8, 0, ProofSum(), 0))
    earlier.raise_epoch("b")
    earlier.raise_epoch("c")
    later.keep_epochs(earlier)
    assert later.find("a") == PublisherState(3, 10, ProofSum(5), 20)
    epochs = [state.epoch for n in "bc" if (state := later.find(n)) is not None]
    assert epochs == [8, 1]

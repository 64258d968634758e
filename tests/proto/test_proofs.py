"""Running sums and the proofs made of them (`SPEC.md §15`)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ackline.proto.batches import encode_batch
from ackline.proto.checksums import crc32c
from ackline.proto.messages import Proof
from ackline.proto.proofs import NOTHING, ProofSum

bodies_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=20)


def over(bodies: list[bytes]) -> ProofSum:
    """Return the sum over events of kind 0, from their bytes."""
    column = b"".join(len(body).to_bytes(4, "big") for body in bodies)
    joined = b"".join(bodies)
    return ProofSum(len(joined), crc32c(column), crc32c(joined))


def test_sum_over_nothing_is_zero() -> None:
    assert NOTHING == ProofSum(0, 0, 0) == over([])


@given(bodies_lists, st.data())
def test_sum_does_not_depend_on_batch_boundaries(
    bodies: list[bytes], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(bodies)))
    known = NOTHING
    for first, part in ((0, bodies[:cut]), (cut, bodies[cut:])):
        if part:
            batch = encode_batch(first, part)
            known = known.extended(batch.columns(), batch.bodies())
    assert known == over(bodies)


@given(bodies_lists, st.data())
def test_sum_between_two_positions_follows_from_theirs(
    bodies: list[bytes], data: st.DataObject
) -> None:
    base = data.draw(st.integers(0, len(bodies)))
    position = data.draw(st.integers(base, len(bodies)))
    between = over(bodies[:position]).since(over(bodies[:base]), position - base)
    assert between == over(bodies[base:position])


@given(bodies_lists)
def test_sum_over_chunks_follows_from_their_crcs(chunks: list[bytes]) -> None:
    known = NOTHING
    for chunk in chunks:
        known = known.with_body(crc32c(chunk), len(chunk))
    joined = b"".join(chunks)
    assert known == ProofSum(len(joined), 0, crc32c(joined))
    assert known.since(NOTHING, 0) == known


def test_length_of_bodies_counts_bytes_of_any_buffer() -> None:
    wide = memoryview(bytes(8)).cast("I")
    assert NOTHING.extended(b"", wide).bytes == 8


def test_proof_states_its_positions_and_sums() -> None:
    assert over([b"ab"]).proof(3, 4) == Proof(
        base=3,
        position=4,
        bytes=2,
        lengths_crc=crc32c(b"\0\0\0\2"),
        bodies_crc=crc32c(b"ab"),
    )

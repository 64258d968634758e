"""What a peer may state in Limits (`SPEC.md §6`)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ackline.proto import limits as numbers
from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.limits import validated
from ackline.proto.messages import Limits

DEFAULTS = Limits(
    max_payload=numbers.DEFAULT_MAX_PAYLOAD,
    max_chunk_size=numbers.DEFAULT_MAX_CHUNK_SIZE,
    max_streams=numbers.DEFAULT_MAX_STREAMS,
    window_units=numbers.DEFAULT_WINDOW_UNITS,
    window_bytes=numbers.DEFAULT_WINDOW_BYTES,
    initial_units=numbers.DEFAULT_INITIAL_UNITS,
    initial_bytes=numbers.DEFAULT_INITIAL_BYTES,
    heartbeat=numbers.DEFAULT_HEARTBEAT,
)


@pytest.mark.parametrize("of_server", [True, False])
def test_defaults_may_be_stated(of_server: bool) -> None:
    assert validated(DEFAULTS, of_server=of_server) is DEFAULTS


def test_client_states_zero_for_what_is_the_servers_alone() -> None:
    client = replace(DEFAULTS, max_streams=0, initial_units=0, initial_bytes=0)
    assert validated(client, of_server=False) is client
    with pytest.raises(ProtocolViolation):
        validated(client, of_server=True)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("max_payload", 8_192, 2**20),
        ("max_chunk_size", 1_024, 2**25),  # the window here holds no larger chunk
        ("max_streams", 1, 2**32 - 1),
        ("window_units", 1, 2**64 - 1),
        ("window_bytes", 2**24, 2**64 - 1),
        ("initial_units", 1, 2**64 - 1),
        ("initial_bytes", 1_024, 2**64 - 1),
        ("heartbeat", 0.05, 3_600),
    ],
)
def test_bounds_may_be_stated_and_what_is_beyond_may_not(
    name: str, lowest: float, highest: float
) -> None:
    def stated(value: float) -> Limits:
        changes: dict[str, Any] = {name: value}
        return validated(replace(DEFAULTS, **changes), of_server=True)

    stated(lowest)
    stated(highest)
    step = 0.01 if name == "heartbeat" else 1
    for beyond in (lowest - step, highest + step):
        # 2**64 cannot come from the wire, but is no legal value either.
        with pytest.raises(ProtocolViolation) as refused:
            stated(beyond)
        assert refused.value.code is Code.BAD_FRAME


def test_chunk_above_256_mib_may_not_be_stated_whatever_the_window() -> None:
    wide = replace(DEFAULTS, max_chunk_size=2**28 + 1, window_bytes=2**40)
    with pytest.raises(ProtocolViolation, match="max_chunk_size"):
        validated(wide, of_server=False)


def test_early_data_fits_the_smallest_payload_several_times() -> None:
    assert numbers.EARLY_BYTES // numbers.MIN_PAYLOAD == 8


def test_largest_event_fills_one_default_payload() -> None:
    assert numbers.MAX_EVENT == 262_136

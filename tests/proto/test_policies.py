"""The policies of SPEC.md §16, as OPEN states them."""

from __future__ import annotations

import pytest

from ackline.proto.errors import Code, ProtocolViolation
from ackline.proto.policies import BLOCK, parse_policy


@pytest.mark.parametrize(
    ("name", "value", "text", "blocks"),
    [
        ("block", None, "block", True),
        ("latest", None, "latest", False),
        ("drop-oldest", 100, "drop-oldest:100", False),
        ("drop-oldest", 2**32 - 1, "drop-oldest:4294967295", False),
        ("sample", 0.001, "sample:0.001", False),
        ("sample", 3600, "sample:3600", False),
        ("merge", None, "merge", False),
        ("merge", "key", "merge:key", False),
    ],
)
def test_a_policy_reads_as_users_write_it(
    name: str, value: str | float | None, text: str, blocks: bool
) -> None:
    policy = parse_policy(name, value)
    assert str(policy) == text
    assert policy.blocks == blocks
    assert (policy.name, policy.value) == (name, value)


def test_the_default_is_shared_and_a_linger_is_not_it() -> None:
    assert parse_policy("block") is BLOCK
    assert parse_policy("block", linger=1).linger == 1
    assert parse_policy("block", linger=1).blocks


@pytest.mark.parametrize(
    ("name", "value", "linger", "code"),
    [
        ("", None, 0, Code.UNSUPPORTED),
        ("LATEST", None, 0, Code.UNSUPPORTED),
        ("block", 0, 0, Code.INVALID_ARGUMENT),
        ("latest", "", 0, Code.INVALID_ARGUMENT),
        ("sample", None, 0, Code.INVALID_ARGUMENT),
        ("sample", True, 0, Code.INVALID_ARGUMENT),
        ("sample", "1", 0, Code.INVALID_ARGUMENT),
        ("sample", 0.0009, 0, Code.INVALID_ARGUMENT),
        ("sample", 3601, 0, Code.INVALID_ARGUMENT),
        ("sample", 1, 0.5, Code.INVALID_ARGUMENT),
        ("merge", 1, 0, Code.INVALID_ARGUMENT),
        ("merge", "", 0, Code.INVALID_ARGUMENT),
        ("drop-oldest", None, 0, Code.INVALID_ARGUMENT),
        ("drop-oldest", True, 0, Code.INVALID_ARGUMENT),
        ("drop-oldest", 1.0, 0, Code.INVALID_ARGUMENT),
        ("drop-oldest", 0, 0, Code.INVALID_ARGUMENT),
        ("drop-oldest", 2**32, 0, Code.INVALID_ARGUMENT),
        ("block", None, 60.1, Code.INVALID_ARGUMENT),
        ("block", None, -1, Code.INVALID_ARGUMENT),
    ],
)
def test_what_is_no_policy_is_refused(
    name: str, value: str | float | None, linger: float, code: Code
) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        parse_policy(name, value, linger)
    assert refused.value.code is code

"""Codes and the exception tree (`SPEC.md §20`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ackline.proto import errors
from ackline.proto.errors import (
    RETRYABLE,
    AcklineError,
    ChecksumConflict,
    Code,
    ConnectionLost,
    ProtocolViolation,
    Refused,
    StreamCancelled,
    StreamEnded,
    StreamFailed,
    TakenOver,
    UsageError,
    code_name,
)
from ackline.proto.limits import MAX_STRING
from ackline.proto.messages import Outcome, OutcomeKind

SPEC = Path(__file__).parents[2] / "SPEC.md"


def test_codes_are_the_table_of_spec_20_in_its_order() -> None:
    section = SPEC.read_text(encoding="utf-8").partition("\n## 20 ")[2]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\w*) *\|", section, re.MULTILINE)
    assert [
        (str(code.value), code_name(code), "yes" if code.retry else "") for code in Code
    ] == [(number, name, retry.replace("no", "")) for number, name, retry in rows]


def test_only_codes_marked_retry_are_retryable() -> None:
    assert {code for code in Code if code.retry} == RETRYABLE


def test_unknown_code_keeps_its_number_as_an_internal_error() -> None:
    assert code_name(9_999) == "internal_error(9999)"
    assert code_name(15) == "internal_error"


def test_docstring_prints_the_tree_as_it_is() -> None:
    assert errors.__doc__ is not None
    printed = re.findall(r"^[│├└─ ]*([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    classes = [name for name in printed if hasattr(errors, name)]
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, AcklineError)
    }
    assert tree <= set(classes)
    for name in tree - {"AcklineError"}:
        base = getattr(errors, name).__mro__[1].__name__
        indents = {
            line.lstrip("│├└─ ").split()[0]: len(line) - len(line.lstrip("│├└─ "))
            for line in errors.__doc__.splitlines()
            if line.strip()
        }
        assert indents[name] == indents[base] + 4
        assert classes.index(base) < classes.index(name)


def test_usage_error_is_a_value_error_so_that_decoding_catches_it() -> None:
    assert issubclass(UsageError, ValueError)
    assert not issubclass(ProtocolViolation, ValueError)


def test_violation_names_its_code_before_its_text() -> None:
    violation = ProtocolViolation(Code.BAD_CRC, "bits were flipped")
    assert str(violation) == "bad_crc: bits were flipped"
    assert (violation.code, violation.text) == (Code.BAD_CRC, "bits were flipped")


def test_text_that_quotes_a_peer_at_length_still_fits_an_error_frame() -> None:
    violation = ProtocolViolation(Code.BAD_FRAME, "\U0001f600" * 4_096)
    assert len(violation.text.encode()) <= MAX_STRING
    assert violation.text.endswith("…")


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (
            Refused(81, "gone", resource="objects/a"),
            "objects/a: not_found: gone (the same request would be refused again)",
        ),
        (
            Refused(16, "busy", retry=True, stream=7),
            "overloaded: busy (trying again can succeed)",
        ),
        (
            Refused(86, "disk full", retry=True, retry_after=2.5),
            "insufficient_storage: disk full (try again in 2.5 s)",
        ),
    ],
)
def test_refusal_says_whether_and_when_to_try_again(
    refused: Refused, text: str
) -> None:
    assert str(refused) == text


def test_refusal_keeps_what_the_peer_said() -> None:
    refused = ChecksumConflict(
        116, "chunk 3", retry=True, retry_after=1.0, resource="uploads/u", stream=4
    )
    assert isinstance(refused, Refused)
    assert (refused.code, refused.text) == (116, "chunk 3")
    assert (refused.retry, refused.retry_after) == (True, 1.0)
    assert (refused.resource, refused.stream) == ("uploads/u", 4)


def test_lost_connection_has_a_code_only_if_the_peer_gave_one() -> None:
    assert str(ConnectionLost("the socket closed")) == "the socket closed"
    lost = ConnectionLost("silence", code=Code.PEER_LOST)
    assert (str(lost), lost.code) == ("peer_lost: silence", Code.PEER_LOST)


def test_takeover_tells_to_use_the_newer_connection() -> None:
    taken = TakenOver()
    assert taken.code is Code.TAKEN_OVER
    assert "use that one" in str(taken)


@pytest.mark.parametrize("kind", [StreamEnded, StreamFailed, StreamCancelled])
def test_ended_stream_tells_code_position_and_text(kind: type[StreamEnded]) -> None:
    outcome = Outcome(OutcomeKind.FAILED, 117, "sha256 differs", 9, 0.0)
    assert str(kind(outcome)) == "digest_mismatch at position 9: sha256 differs"
    assert kind(outcome).outcome is outcome
    silent = Outcome(OutcomeKind.CANCELLED, 112, "", 3, 0.0)
    assert str(kind(silent)) == "cancelled_by_client at position 3"

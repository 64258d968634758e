"""Payloads of control frames (`SPEC.md §5`); most cases are in the golden vectors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ackline.proto import messages, values
from ackline.proto.errors import Code, ProtocolViolation, UsageError
from ackline.proto.frames import FrameType
from ackline.proto.limits import MAX_STRING
from ackline.proto.messages import (
    PAYLOADS,
    Ack,
    Configure,
    Done,
    Durability,
    Existing,
    Hello,
    Limits,
    Open,
    Opened,
    Proof,
    PublishDetail,
    Resume,
    ResumeStream,
    Session,
    Standing,
    Start,
    SubscribeDetail,
    SubscribeOpened,
    UploadDetail,
    Use,
    clipped,
    decode,
    encode,
    open_detail,
    opened_detail,
    raw,
)

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
SECTION_5 = SPEC.partition("\n## 5 ")[2].partition("\n## 6 ")[0]
DETAILS = SPEC.partition("\nThe `detail` arrays:")[2].partition("\n- `chunk_size`")[0]

LIMITS = Limits(262_144, 2**24, 0, 65_536, 2**25, 0, 0, 10.0)

#: Types of SPEC.md as they are written in the code.
TYPES = {
    "u8": "U8",
    "u16": "U16",
    "u32": "U32",
    "u64": "U64",
    "f64": "Seconds",
    "bool": "bool",
    "str": "Text",
    "bin": "Bin",
    "[str]": "Texts",
    "[[u64, u64]]": "Ranges",
    "{str: value}": "Values",
    "value": "Value",
    "(by use, §9)": "Raw",
}

#: Fields whose numbers are an enumeration in the code.
ENUMERATIONS = {
    "use": "Use",
    "durability": "Durability",
    "intent": "Intent",
    "outcome": "OutcomeKind",
    "scope": "Scope",
    "start": "Start",
    "existing": "Existing",
    "on_trimmed": "OnTrimmed",
    "resumes": "Resumes",
}

DEFAULTS: dict[str, object] = {
    "nil": None,
    "empty": b"",
    "[]": (),
    "{}": {},
    "false": False,
    '""': "",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field as SPEC.md states it."""

    name: str
    type: str
    default: str | None


def fields_of(cell: str) -> list[Field]:
    """Return the fields in a cell of a table of SPEC.md."""
    return [
        Field(name, type_.strip(), default or None)
        for name, type_, default in re.findall(
            r"`(\w+)` ((?:\[\[u64, u64\]\]|\{str: value\}|\([^)]*\)|[^,=|])+)"
            r"(?:= (\[\]|\{\}|[^,|]+?))?(?:,|$)",
            cell.strip(),
        )
    ]


def class_named(name: str) -> str:
    """Return the class that is the payload of a frame, or the value of that name."""
    frame = FrameType.__members__.get(name)
    return name if frame is None else PAYLOADS[frame].__name__


def stated_messages() -> list[tuple[str, str]]:
    """Return class and fields for every row of the tables of SPEC.md §5 and §9.2."""
    rows = re.findall(r"^\| ([A-Za-z_, ]+) \| (`.*) \|$", SECTION_5, re.MULTILINE)
    stated = [
        (class_named(name), cell) for names, cell in rows for name in names.split(", ")
    ]
    details = re.findall(r"^\| (\w+) \| (`.*?) \| (`.*) \|$", DETAILS, re.MULTILINE)
    for use, in_open, in_opened in details:
        stated.append((f"{use.title()}Detail", in_open))
        stated.append((f"{use.title()}Opened", in_opened))
    return stated


def annotation(field: Field) -> str:
    """Return the annotation a field has in the code."""
    optional = field.type.endswith("?")
    type_ = field.type.removesuffix("?")
    if type_ == "u8" and field.name in ENUMERATIONS:
        return ENUMERATIONS[field.name]
    if field.name == "kinds":
        return "Kinds"
    if type_.startswith("[") and type_ not in TYPES:
        return f"tuple[{type_[1:-1]}, ...]"
    return TYPES.get(type_, type_) + (" | None" if optional else "")


@pytest.mark.parametrize(("name", "cell"), stated_messages())
def test_fields_types_and_defaults_are_those_of_the_spec(name: str, cell: str) -> None:
    message = getattr(messages, name)
    stated = fields_of(cell)
    assert [field.name for field in stated] == list(message.__struct_fields__)
    defaults = dict(
        zip(
            reversed(message.__struct_fields__),
            reversed(message.__struct_defaults__),
            strict=False,
        )
    )
    for field in stated:
        written = message.__annotations__[field.name]
        if (name, field.name) == ("FetchDetail", "start"):
            assert written == "U64"  # a byte, not one of the enumeration
        elif written.startswith("Annotated["):
            assert annotation(field) in written
        else:
            assert written == annotation(field)
        if field.default is None:
            assert field.name not in defaults
            continue
        default = defaults[field.name]
        if hasattr(default, "factory"):
            default = default.factory()
        expected = DEFAULTS.get(field.default, field.default.strip('"'))
        assert default == expected or str(int(default)) == expected


def test_every_payload_of_the_spec_has_its_class() -> None:
    stated = {name for name, _ in stated_messages()}
    assert stated >= {each.__name__ for each in PAYLOADS.values()}
    assert set(PAYLOADS) == set(FrameType) - {
        FrameType.CHUNK,
        FrameType.EVENTS,
        FrameType.CONFIRM,
        FrameType.RELEASE,
        FrameType.BLOCKED,
    }


def test_uses_know_who_sends_and_what() -> None:
    assert [(use.client_sends, use.chunks) for use in Use] == [
        (True, True),
        (False, True),
        (True, False),
        (False, False),
    ]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
maps = st.dictionaries(st.text(max_size=10), scalars, max_size=64)


@given(maps)
def test_maps_come_back(settings: dict[str, Any]) -> None:
    message = Configure("logs/a", settings)
    assert decode(Configure, encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_frame(payload: bytes) -> None:
    for message in set(PAYLOADS.values()):
        try:
            decode(message, payload)
        except ProtocolViolation as violation:
            assert violation.code is Code.BAD_FRAME  # noqa: PT017


@given(st.data())
def test_any_cut_of_a_message_is_a_bad_frame(data: st.DataObject) -> None:
    payload = encode(Hello(1, 1, "bearer", b"secret", "agent", True, LIMITS, ("a",)))
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolViolation):
        decode(Hello, payload[:cut])


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_payload_may_be_any_buffer(make: Any) -> None:
    message = Open(Use.PUBLISH, "logs/a", "", 0, 0, raw(PublishDetail(("x",))))
    assert decode(Open, make(encode(message))) == message


def test_decoded_detail_survives_the_reuse_of_its_buffer() -> None:
    message = Open(Use.PUBLISH, "logs/a", "", 0, 0, raw(PublishDetail(("x",))))
    buffer = bytearray(encode(message))
    opened = decode(Open, buffer)
    buffer[:] = bytes(len(buffer))
    assert open_detail(opened) == PublishDetail(("x",))


def test_details_are_of_the_class_of_their_use() -> None:
    detail = SubscribeDetail(Start.ID, 17, policy_value=b"bin", generation=3)
    opening = Open(Use.SUBSCRIBE, "runs/r", "", 1, 1, raw(detail))
    assert open_detail(opening) == detail
    standing = Standing(1, 1, 0, 0, 0, 0)
    answer = SubscribeOpened(values.Resumes.NONE, 5)
    opened = Opened(False, "runs/r", Durability.MEMORY, standing, raw(answer))
    assert opened_detail(Use.SUBSCRIBE, opened) == answer


def test_detail_of_another_use_is_a_bad_frame() -> None:
    detail = raw(UploadDetail(1_024, None, existing=Existing.REPLACE))
    with pytest.raises(ProtocolViolation, match="SubscribeDetail payload") as refused:
        open_detail(Open(Use.SUBSCRIBE, "runs/r", "", 1, 1, detail))
    assert refused.value.code is Code.BAD_FRAME


def test_refusal_names_the_field_and_what_was_expected() -> None:
    with pytest.raises(ProtocolViolation, match=r"Ack payload: .*`int`.*\$\[2\]"):
        decode(Ack, msgspec.msgpack.encode([1, 2, "x", 0]))


def test_string_of_4_kib_counts_bytes_wherever_it_is() -> None:
    fits, too_long = "€" * 1_365 + "x", "€" * 1_366
    assert len(fits.encode()) == MAX_STRING
    assert decode(Done, encode(Done(fits))).text == fits
    for message in (
        Done(too_long),
        Configure("logs/a", {too_long: 1}),
        Hello(1, 1, "", b"", "", False, LIMITS, ("short", too_long)),
    ):
        with pytest.raises(ProtocolViolation, match="more than 4096 bytes"):
            decode(type(message), encode(message))


def test_long_message_of_short_strings_is_accepted() -> None:
    stream = ResumeStream(1, 2, 3, 0, 0, Proof(0, 3, 9, 1, 2), 5, 6)
    resume = Resume("s", bytes(16), (stream,) * 300)
    payload = encode(resume)
    assert len(payload) > MAX_STRING
    assert decode(Resume, payload) == resume


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (float("nan"), "finite"),
        (float("-inf"), "finite"),
        ([1], "a list"),
        ({}, "a dict"),
        ("x" * 4_097, "4096 bytes"),
        ("€" * 1_366, "4096 bytes"),
        (b"x" * 4_097, "4096 bytes"),
    ],
)
def test_value_that_cannot_be_sent_is_the_callers_mistake(
    value: Any, fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        Configure("logs/a", {"setting": value})
    with pytest.raises(UsageError, match=fault):
        SubscribeDetail(Start.NEXT, policy_value=value)


def test_map_of_65_entries_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="65 entries"):
        Configure("logs/a", {str(number): 1 for number in range(65)})


@pytest.mark.parametrize("ranges", [((5, 5),), ((5, 6), (3, 4)), ((1, 3), (2, 4))])
def test_ranges_out_of_order_are_refused(ranges: Any) -> None:
    with pytest.raises(UsageError, match="ascend"):
        Ack(0, 0, 0, Durability.MEMORY, ranges)
    with pytest.raises(UsageError, match="ascend"):
        Standing(0, 0, 0, 0, 0, 0, ranges)


def test_neighbouring_ranges_are_in_order() -> None:
    assert Ack(0, 0, 0, Durability.MEMORY, ((1, 3), (3, 4))).ranges


def test_no_repr_shows_a_token_or_credential() -> None:
    session = Session("s-1", b"TOP-SECRET", 3)
    hello = Hello(1, 1, "bearer", b"TOP-SECRET", "agent", False, LIMITS)
    resume = Resume("s-1", b"TOP-SECRET", ())
    for message in (session, hello, resume):
        assert "SECRET" not in repr(message)
        assert type(message).__name__ in repr(message)


@given(st.text(max_size=50))
def test_short_text_is_not_clipped(text: str) -> None:
    assert clipped(text) == text


@given(st.characters(codec="utf-8"), st.integers(4_090, 5_000))
def test_clipped_text_can_be_sent(character: str, length: int) -> None:
    text = clipped(character * length)
    assert len(text.encode()) <= MAX_STRING
    assert decode(Done, encode(Done(text))).text == text


def test_clipped_text_has_no_surrogates() -> None:
    assert clipped("a\ud800b") == "a?b"

"""Events of exactly the largest size, with what goes before them (SPEC.md §6, §11)."""

from __future__ import annotations

import pytest

from ackline.proto.errors import Code
from ackline.proto.event_receiver import EventReceiver
from ackline.proto.feed import EventBuffer
from ackline.proto.limits import MAX_EVENT
from ackline.proto.messages import End, Intent, OutcomeKind
from tests.proto.joined import MemoryClient, Pair, limits

BIG = b"x" * MAX_EVENT

POLICIES = [
    ("block", None, None),
    ("latest", None, 2),
    ("drop-oldest", 1, None),
    ("sample", 0.01, 8),
    ("merge", None, 32),
    ("merge", "new", 32),
]


def feed(pair: Pair) -> EventBuffer:
    buffer = pair.server.logs["sources/x"] = EventBuffer(
        generation=5, max_events=10**6, max_bytes=10**8, keep=True, define=True
    )
    return buffer


@pytest.mark.parametrize("max_payload", [MAX_EVENT + 8, 2**20])
@pytest.mark.parametrize(("policy", "value", "units"), POLICIES)
def test_the_largest_event_of_a_new_kind_arrives(
    max_payload: int, policy: str, value: str | float | None, units: int | None
) -> None:
    """Its definition, or the gap before it, then goes alone: no window has more."""
    pair = Pair(client=MemoryClient(client_limits=limits(max_payload=max_payload)))
    buffer = feed(pair)
    stream = pair.client.subscribe("sources/x", policy, value, max_units=units)
    pair.run()
    for name in ("new", "newer", "newest"):
        buffer.append(b"left out, perhaps", buffer.define("other"))
        buffer.append(BIG, buffer.define(name))
        pair.run()
        pair.now += 1
    buffer.append(b"last", buffer.define("last"))
    buffer.finish(End(Intent.COMPLETED, 0, "", size=7))
    pair.run()
    assert pair.client.broken == {}
    assert pair.client.outcomes[stream.id].outcome is OutcomeKind.COMPLETED
    received = pair.client.events[stream.id]
    assert BIG in received
    if policy == "block":
        assert received == [b"left out, perhaps", BIG] * 3 + [b"last"]
        receiver = stream.receiver
        assert isinstance(receiver, EventReceiver)
        names = ("other", "new", "newer", "newest", "last")
        assert tuple(receiver.kinds.names[1:]) == names


def test_a_definition_is_told_again_on_a_new_connection() -> None:
    pair = Pair()
    buffer = feed(pair)
    stream = pair.client.subscribe("sources/x")
    pair.client.consume = False
    pair.run()
    buffer.append(b"x" * 100_000)
    buffer.append(BIG, buffer.define("new"))
    pair.run()  # the definition is there, and the event waits for the window
    pair.reconnect()
    pair.client.consume = True
    pair.client.take(stream)
    pair.run()
    assert pair.client.events[stream.id] == [b"x" * 100_000, BIG]


def test_an_event_above_what_a_client_takes_fails_the_stream() -> None:
    pair = Pair(client=MemoryClient(client_limits=limits(max_payload=8192)))
    buffer = feed(pair)
    stream = pair.client.subscribe("sources/x")
    buffer.append(b"x" * 8184, buffer.define("new"))
    pair.run()
    assert pair.client.events[stream.id] == [b"x" * 8184]
    buffer.append(b"x" * 8185)
    pair.run()
    assert pair.client.outcomes[stream.id].code == Code.LIMIT_EXCEEDED

"""Why something is not moving: a word for programs, a sentence for people (§19)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ackline.proto.errors import code_name
from ackline.proto.lifecycle import PauseReason
from ackline.server.fetches import FetchHandler
from ackline.server.publishes import PublishHandler
from ackline.server.run_subscriptions import RunSubscription
from ackline.server.uploads import UploadHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ackline.proto.receiver import Receiver
    from ackline.proto.sender import Sender
    from ackline.server.handler import Handler
    from ackline.server.run import Run
    from ackline.server.stores.entities import Delivery

__all__ = ["WORDS", "Reason", "run_reasons", "sink_reasons", "stream_reasons"]

WORDS = (
    "window",
    "connection_credit",
    "paused_by_client",
    "paused_by_server",
    "disconnected",
    "disk",
    "consumer",
    "producer",
    "sink",
    "commit",
    "memory",
    "quota",
    "nothing_to_send",
)
"""All that `Reason.word` can be (SPEC.md §19)."""

SLOW_SECONDS = 0.5
"""From here on it is worth saying for how long something has waited."""


class Reason(NamedTuple):
    """One reason.

    Attributes:
        word: of the list in SPEC.md §19.
        text: a clause about the thing that does not move.
    """

    word: str
    text: str


def stream_reasons(handler: Handler) -> list[Reason]:
    """Return why a stream is not moving; nothing once it has ended."""
    stream = handler.stream
    if stream.outcome is not None:
        return []
    reasons = _pauses(handler)
    if isinstance(handler, UploadHandler | PublishHandler):
        reasons += _storing(handler)
    if stream.connection is not None:
        if stream.receiver is not None:
            reasons += _window_granted(handler, stream.receiver)
        if stream.sender is not None:
            reasons += _window_used(handler, stream.sender)
    return reasons or _nothing_to_send(handler)


def run_reasons(run: Run) -> list[Reason]:
    """Return why a run is not producing; nothing once it has ended."""
    if not run.active:
        return []
    failure = run.run_log.failure if run.run_log is not None else None
    if failure is not None:
        return [Reason("disk", f"its log takes no events for now: {failure}")]
    if run.waiting_for_room:
        return [Reason("consumer", _slowest(run))]
    if not run.consumers:
        return [Reason("disconnected", "nobody is connected that consumes it")]
    return [Reason("producer", f"its source has not made event {run.next_id} yet")]


def sink_reasons(
    waiting: Sequence[Delivery], called: Sequence[str], now: float
) -> list[Reason]:
    """Return why sinks have not taken an object.

    Args:
        waiting: what they have still to take.
        called: names of those that are being called with it.
        now: unix seconds.
    """
    return [Reason("sink", _sink(each, called, now)) for each in waiting]


def _sink(delivery: Delivery, called: Sequence[str], now: float) -> str:
    text = f"sink {delivery.sink} has not taken it"
    if delivery.attempts:
        calls = "call" if delivery.attempts == 1 else f"{delivery.attempts} calls"
        text += f": {calls} failed, last with {delivery.error}"
    if delivery.sink in called:
        return f"{text}; it is being called now"
    pause = delivery.next_try - now
    return f"{text}; it is called again in {pause:.0f} s" if pause > 0 else text


def _pauses(handler: Handler) -> list[Reason]:
    paused = handler.stream.lifecycle.reasons
    reasons: list[Reason] = []
    if PauseReason.DISCONNECTED in paused:
        gone = handler.service.now() - handler.session.detached_at
        text = f"its client has not been connected for {gone:.0f} s"
        reasons.append(Reason("disconnected", text))
    if PauseReason.BY_CLIENT in paused:
        reasons.append(Reason("paused_by_client", "its client has paused it"))
    if PauseReason.BY_SERVER in paused:
        reasons.append(Reason("paused_by_server", "the server has paused it"))
    return reasons


def _storing(handler: UploadHandler | PublishHandler) -> list[Reason]:
    """Return what the disk has to do with it."""
    if handler.trouble is not None:
        text = f"the disk takes nothing for now: {handler.trouble}"
        return [Reason("disk", text)]
    if isinstance(handler, UploadHandler) and handler.committing:
        text = "all of it is here, and is being verified and committed"
        return [Reason("commit", text)]
    if not handler.storing:
        return []
    text = "what came is being written to the disk"
    since = handler.storing_since
    waited = 0.0 if since is None else time.perf_counter() - since
    if waited >= SLOW_SECONDS:
        text += f", the oldest of it for {waited:.1f} s"
    return [Reason("disk", text)]


def _window_granted(handler: Handler, receiver: Receiver) -> list[Reason]:
    """Return why the client may not send."""
    if receiver.held_back:
        return [_quota(handler)]
    if not receiver.waits_for_memory:
        return []
    limit = handler.service.budget.limit
    text = f"all memory for what clients send (receive_budget, {limit:,} bytes) is"
    return [Reason("memory", f"{text} promised to other streams; it waits its turn")]


def _window_used(handler: Handler, sender: Sender) -> list[Reason]:
    """Return why the client may not be sent anything."""
    connection = handler.stream.connection
    assert connection is not None
    if sender.held_until > connection.now:
        what = code_name(sender.held_code) if sender.held_code else "something"
        return [Reason("consumer", f"its client is short of {what}, and asked to wait")]
    if connection.held_back and sender.scheduled:
        return [_quota(handler)]
    if sender.stalled:
        behind = sender.sent_position - sender.acknowledged_units
        unit = "chunk" if handler.stream.use.chunks else "event"
        text = "its client takes no more for now: its window is full"
        if behind:
            text += f", with {behind:,} {unit}{'s' * (behind != 1)} it has not taken"
        return [Reason("window", text)]
    if connection.starves(sender):
        text = "the window of its client's whole connection is used up by other streams"
        return [Reason("connection_credit", text)]
    return []


def _quota(handler: Handler) -> Reason:
    """Return that its identity has moved all it may for now."""
    service, name = handler.service, handler.session.identity
    connection = handler.stream.connection
    assert connection is not None
    seconds = (
        0.0 if connection.bucket is None else connection.bucket.owed(service.now())
    )
    text = f"its client ({name}) moves more bytes or events a second than its quota"
    return Reason("quota", f"{text}; it waits its turn, for {seconds:.1f} s at least")


def _nothing_to_send(handler: Handler) -> list[Reason]:
    stream = handler.stream
    if isinstance(handler, FetchHandler) and handler.loading:
        return [Reason("disk", "the object is being read from the disk")]
    if isinstance(handler, FetchHandler) and handler.waits_for_memory:
        limit = handler.service.options.send_budget
        text = (
            f"all memory for fetches (send_budget, {limit:,} bytes) is used by others"
        )
        return [Reason("memory", text)]
    run = handler.run if isinstance(handler, RunSubscription) else None
    if run is not None and run.active:
        return run_reasons(run)  # it has all there is, and waits for what the run does
    text = "its client has all there is"
    if stream.use.client_sends:
        text = "its client has sent nothing more"
    return [Reason("nothing_to_send", text)]


def _slowest(run: Run) -> str:
    """Return whom a run waits for, and how far behind that is."""
    text = "it may be no further ahead of its consumers"
    cursor = run.slowest
    if cursor is None:
        return text
    behind = run.buffer.next_id - cursor.stored_position
    text = f"its slowest consumer, {cursor.whereabouts}, is {behind:,} events behind"
    return text if cursor.away_since is None else f"{text} and not connected"

"""Print the events of a log or of a computation, each once, over lost connections.

With --json each event is a line {"id": …, "kind": …, "data": …}; `data` is
{"base64": …} where it is not UTF-8. What was left out is a line {"id": …, "gap": count,
"reason": …}. The last line tells the outcome.

With --output such lines are appended to a file. Started again, the command continues
after the last complete one, so that each event is there exactly once.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from ackline.client.cli.output import Output
from ackline.client.cli.running import (
    BaseCommand,
    Exit,
    outcome_fields,
    until_no_reader,
    write_out,
)
from ackline.client.cli.values import key_value, policy, seconds, start_at
from ackline.client.state import open_state
from ackline.client.threads import Threads
from ackline.proto.batches import Gap
from ackline.proto.errors import StreamEnded, UsageError
from ackline.proto.messages import OutcomeKind

if TYPE_CHECKING:
    import argparse

    from ackline.client import Client, Event, Subscription
    from ackline.client.state import State
    from ackline.client.subscriptions import StartAt

__all__ = ["HELP", "NAME", "Command", "arguments"]

NAME = "subscribe"
HELP = "print the events of a log, a source or a run"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "resource", metavar="RESOURCE", help="logs/NAME, sources/NAME or runs/ID"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="POSITION",
        type=start_at,
        help="first, last, next, -N for the last N, an event id, a time such as"
        " 2026-01-31T14:30, or how long ago, such as 10m (default: first)",
    )
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=key_value,
        default=[],
        help="argument of the source; may be repeated",
    )
    parser.add_argument("--key", help="name of the run: the same key joins it")
    parser.add_argument(
        "--on-trimmed",
        choices=("error", "gap"),
        default="error",
        help="what to do if the start is not retained any more (default: error)",
    )
    parser.add_argument(
        "--policy",
        metavar="POLICY",
        type=policy,
        default=("block", None),
        help="what to print when this command or its reader is slow: block"
        " (everything: the producer waits), latest (the newest), drop-oldest:N (the"
        " newest N), sample:SECONDS (the newest each time), merge (the newest of each"
        " kind), merge:KIND (events of KIND are keys of those behind them) (default:"
        " block)",
    )
    parser.add_argument(
        "--linger",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="how long an event may wait for others to travel along (default: 0)",
    )
    parser.add_argument(
        "--cancel-on-exit",
        action="store_true",
        help="cancel the run when this command is interrupted",
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="refuse a source whose runs end when the connection is lost",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="append JSON lines to FILE, exactly once"
    )


class Command(BaseCommand):
    """`ackline subscribe`."""

    _output: Output | None = None
    _subscription: Subscription | None = None

    def prepare(self) -> None:
        """Open the file and see how far it is."""
        self._threads = Threads()
        if self.arguments.output is not None:
            self._output = Output(Path(self.arguments.output))
            if self._output.next_id is not None and self.arguments.start is not None:
                raise UsageError(
                    f"{self.arguments.output} has events already and continues after"
                    " them: leave --from out, or name another file"
                )

    def close(self) -> None:
        """Close the file."""
        if self._output is not None:
            self._output.close()

    def interrupted(self) -> str:
        """Say how to continue."""
        if self._output is not None:
            return f"interrupted. To continue: {self.again()}"
        subscription = self._subscription
        if subscription is None or subscription.opened is None:
            return "interrupted"
        if subscription.resumption == "none":
            return "interrupted, and what ran ends with it: it cannot be continued"
        words = ["ackline", "--server", self.arguments.server, "subscribe"]
        words += [subscription.resource, "--from", str(subscription.position)]
        if not subscription.policy.blocks:
            words += ["--policy", str(subscription.policy), "--on-trimmed", "gap"]
        if subscription.policy.linger:
            words += ["--linger", f"{subscription.policy.linger:g}"]
        return f"interrupted. To continue: {shlex.join(words)}"

    async def run(self, client: Client) -> int:
        """Subscribe."""
        state = self._state(client)
        known = state.get() if state is not None else {}
        self._check_state(known)
        resource = str(known.get("resource") or self.arguments.resource)
        key = self.arguments.key or str(known.get("key", "")) or None
        if state is not None and not known and resource.startswith("sources/"):
            key = key or secrets.token_hex(16)
            state.put(key=key, asked=self.arguments.resource)
        subscription = client.subscribe(
            resource,
            params=dict(self.arguments.param),
            key=key if resource.startswith("sources/") else None,
            start=self._start(),
            generation=int(known.get("generation", 0)),
            policy=self.arguments.policy[0],
            policy_value=self.arguments.policy[1],
            linger=self.arguments.linger,
            on_trimmed=self.arguments.on_trimmed,
            auto_ack=self._output is None,
            on_exit="cancel" if self.arguments.cancel_on_exit else "release",
            resumable=self.arguments.resumable,
        )
        self._subscription = subscription
        async with subscription:
            if state is not None:
                state.put(
                    resource=subscription.resource,
                    generation=subscription.generation,
                    asked=self.arguments.resource,
                )
            if subscription.run_id and sys.stderr.isatty():
                self.display.note(_described(subscription))
            return await self._deliver(subscription)

    async def _deliver(self, subscription: Subscription) -> int:
        try:
            await self._print(subscription)
        except StreamEnded:
            if subscription.outcome is None:
                raise
        outcome = subscription.outcome
        assert outcome is not None
        fields: dict[str, Any] = {
            **outcome_fields(outcome),
            "resource": subscription.resource,
            "generation": subscription.generation,
            "resumes": subscription.resumes,
            "received": subscription.received,
            **asdict(subscription.left_out),
        }
        self._note_left_out(subscription)
        if self.arguments.json:
            self.line(**fields)
        elif outcome.outcome != OutcomeKind.COMPLETED:
            code, text = fields["code"], outcome.text
            self.display.note(f"{fields['outcome']}: {code}{text and ': ' + text}")
        match outcome.outcome:
            case OutcomeKind.COMPLETED:
                return Exit.DONE
            case OutcomeKind.CANCELLED:
                return Exit.CANCELLED
            case _:
                return Exit.FAILED

    async def _print(self, subscription: Subscription) -> None:
        """Print all events.

        Raises:
            BrokenPipeError: nobody reads them.
        """

        async def write() -> None:
            async for events in subscription.batches():
                await self._write(subscription, events)

        if self._output is not None:
            await write()
            return
        writing = asyncio.create_task(write())
        unread = asyncio.create_task(until_no_reader(self._threads))
        either: list[asyncio.Task[None]] = [writing, unread]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                raise BrokenPipeError
            await writing
        finally:
            for task in either:
                task.cancel()
            await asyncio.wait(either)

    async def _write(
        self, subscription: Subscription, events: list[Event | Gap]
    ) -> None:
        output = self._output
        if output is not None:
            data = b"".join(map(json_line, events))
            await asyncio.to_thread(output.write, data)
            # One sync for all that came meanwhile; what is synced is acknowledged.
            if output.unsynced_bytes >= SYNC_BYTES or not subscription.waiting:
                await asyncio.to_thread(output.sync)
                last = events[-1]
                count = last.count if isinstance(last, Gap) else 1
                subscription.ack(last.id + count - 1)
            return
        encode = json_line if self.arguments.json else self._plain_line
        data = b"".join(map(encode, events))
        # In a thread: a pipe that nobody reads must stop neither heartbeat nor Ctrl-C.
        await self._threads.run_loose(lambda: write_out(data))

    def _note_left_out(self, subscription: Subscription) -> None:
        """Say what the policy left out, in one line: a line each would be many."""
        counts = asdict(subscription.left_out)
        words = [f"{count} {reason}" for reason, count in counts.items() if count]
        if words and not subscription.policy.blocks:
            self.display.note(
                f"{subscription.received} events received, {', '.join(words)}"
            )

    def _plain_line(self, event: Event | Gap) -> bytes:
        if isinstance(event, Gap):
            if self.arguments.policy[0] == "block":
                reason = event.reason.name.lower()
                text = f"{event.count} events from {event.id} on were {reason}"
                self.display.note(text)
            return b""
        return event.data + b"\n"

    def _start(self) -> StartAt:
        if self._output is not None and self._output.next_id is not None:
            return self._output.next_id
        start: StartAt | None = self.arguments.start
        return "first" if start is None else start

    def _state(self, client: Client) -> State | None:
        if self._output is None:
            return None
        return open_state(
            self.arguments.state_dir,
            "subscriptions",
            client.home,
            Path(self.arguments.output).resolve(),
        )

    def _check_state(self, known: dict[str, Any]) -> None:
        output = self._output
        if output is None or not known:
            return
        if output.next_id is None:
            known.pop("generation", None)
        asked = known.get("asked", self.arguments.resource)
        if asked != self.arguments.resource:
            raise UsageError(
                f"{self.arguments.output} holds events of {asked}; name another file"
            )


SYNC_BYTES = 4 * 2**20
"""Bytes written between two syncs while events keep coming; far below what a producer
may be ahead of a cursor that has not stored them."""

_encode = msgspec.json.Encoder().encode


def _described(subscription: Subscription) -> str:
    """Return what others join this run by, and what becomes of it without them."""
    assert subscription.opened is not None
    joined = "joined" if subscription.opened.existing else "started"
    kept = ", on the server's disk" if subscription.durable else ""
    if subscription.resumption == "none":
        kept = ", and ends when its connections are lost"
    return f"{joined} {subscription.resource}{kept}"


def json_line(event: Event | Gap) -> bytes:
    """Return an event as a line of JSON."""
    if isinstance(event, Gap):
        reason = event.reason.name.lower()
        return _encode({"id": event.id, "gap": event.count, "reason": reason}) + b"\n"
    data: object
    try:
        data = event.data.decode()
    except UnicodeDecodeError:
        data = {"base64": base64.b64encode(event.data).decode()}
    return _encode({"id": event.id, "kind": event.kind, "data": data}) + b"\n"

"""The client for programs without asyncio."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ackline import client as asynchronous
from ackline.client import (
    ClientOptions,
    Code,
    ConnectionLost,
    Event,
    Outcome,
    OutcomeKind,
    Refused,
    StreamCancelled,
    StreamFailed,
    UsageError,
)
from ackline.client.blocking import Client, Publisher, Subscription, connect, merged
from ackline.client.handles import Handle
from tests.client.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ackline.client import Gap, Progress
    from tests.client.processes import ServerProcess


@pytest.fixture
def waiting(server: ServerProcess) -> Iterator[Client]:
    """Return a blocking client."""
    with connect(server.url) as made:
        yield made


def texts(events: Iterator[Event | Gap] | list[Event | Gap]) -> list[str]:
    return [event.text for event in events if isinstance(event, Event)]


def follow(events: Subscription, see: Callable[[Event | Gap], object]) -> None:
    """Show each event to somebody."""
    for event in events:
        see(event)


def interrupt_when(condition: Callable[[], bool]) -> threading.Thread:
    """Press Ctrl-C as soon as something is true."""

    def press() -> None:
        while not condition():
            time.sleep(0.002)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


# The four uses, and the requests


def test_a_program_without_asyncio_uploads_and_fetches(
    waiting: Client, tmp_path: Path, name: str
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    seen: list[Progress] = []
    result = waiting.upload(tmp_path / "file", name, on_progress=seen.append)
    assert (result.size, seen[-1].done) == (300_000, 300_000)
    assert waiting.fetch(name).data == data
    fetched = waiting.fetch(name, tmp_path / "copy", start=100)
    assert (fetched.size, fetched.data) == (299_900, None)
    assert (tmp_path / "copy").read_bytes() == data[100:]
    assert waiting.status(f"objects/{name}").facts["size"] == 300_000
    assert [entry.resource for entry in waiting.list(f"objects/{name}")] == [
        f"objects/{name}"
    ]
    waiting.delete(f"objects/{name}")
    with pytest.raises(Refused):
        waiting.status(f"objects/{name}")
    assert waiting.ping() > 0
    assert waiting.connected
    assert waiting.url == waiting.home


def test_a_generator_of_bytes_is_uploaded(waiting: Client, name: str) -> None:
    parts = (bytes([number]) * 1000 for number in range(10))
    assert waiting.upload(parts, name, chunk_size=1024).size == 10_000
    data = waiting.fetch(name).data
    assert data == b"".join(bytes([number]) * 1000 for number in range(10))


def test_what_a_generator_raises_is_raised(waiting: Client, name: str) -> None:
    def parts() -> Iterator[bytes]:
        yield bytes(5000)
        message = "the camera is gone"
        raise LookupError(message)

    with pytest.raises(LookupError, match="camera"):
        waiting.upload(parts(), name, chunk_size=1024)


def test_events_are_published_and_read_back(waiting: Client, name: str) -> None:
    with waiting.publish(name, key="me", kinds=["even"]) as publisher:
        assert publisher.send("first") == 0
        assert publisher.send_many(f"event {n}" for n in range(5000)) == 5001
        assert publisher.send(b"last", "even") == 5001
        assert publisher.flush() == publisher.log_position == 5002
        assert publisher.acknowledged == publisher.position == 5002
    assert publisher.outcome is not None
    assert publisher.outcome.outcome == OutcomeKind.COMPLETED
    with waiting.publish(name, key="me") as publisher:
        assert publisher.first_unit == publisher.position == 5002
        assert publisher.finish().position == 5002
    waiting.seal(name)
    with waiting.subscribe(f"logs/{name}") as events:
        found = list(events)
    assert texts(found) == ["first", *(f"event {n}" for n in range(5000)), "last"]
    assert isinstance(found[-1], Event)
    assert found[-1].kind == "even"


def test_a_single_event_is_not_held_back(waiting: Client, name: str) -> None:
    waiting.configure(name)
    with (
        waiting.publish(name) as publisher,
        waiting.subscribe(f"logs/{name}") as events,
    ):
        for number in range(3):
            publisher.send(f"event {number}")
            assert texts([next(iter(events))]) == [f"event {number}"]


def test_iterating_goes_on_where_it_was_left(waiting: Client) -> None:
    with waiting.subscribe("sources/count", params={"events": 20}) as events:
        assert events.run_id
        for event in events:
            if event.id == 4:
                break
        assert events.position == 5
        assert next(iter(events)).id == 5
        assert [len(batch) > 0 for batch in events.batches()]
        assert events.position == 20
        assert events.outcome is not None
        assert list(events) == []


def test_events_may_be_acknowledged_by_the_program(waiting: Client, name: str) -> None:
    with waiting.publish(name) as publisher:
        publisher.send_many(["a", "b"])
    with waiting.subscribe(f"logs/{name}", auto_ack=False) as events:
        first = next(iter(events))
        events.ack(first.id)
        with pytest.raises(UsageError, match="not received"):
            events.ack(10)


def test_a_run_is_cancelled_from_another_thread(waiting: Client) -> None:
    with waiting.subscribe("sources/endless") as events:
        got = threading.Event()

        def cancel() -> None:
            got.wait()
            assert waiting.cancel(events.resource).outcome == OutcomeKind.CANCELLED

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(StreamCancelled):
            follow(events, lambda _: got.set())
        thread.join()
        with pytest.raises(StreamCancelled):  # no clean end, however often one asks
            list(events)


# Errors


def test_errors_are_the_same_and_point_at_the_callers_line(
    waiting: Client, name: str
) -> None:
    with pytest.raises(Refused) as raised:
        waiting.fetch(name)  # the caller's line
    assert raised.value.code == Code.NOT_FOUND
    told = "".join(traceback.format_exception(raised.value))
    assert "# the caller's line" in told
    assert "concurrent/futures" not in told
    assert "threading.py" not in told
    with pytest.raises(StreamFailed, match="source_failed"):
        list(waiting.subscribe("sources/broken").__enter__())
    with pytest.raises(UsageError, match="has no events"):
        waiting.subscribe("objects/x")


def test_an_event_that_cannot_be_is_refused_where_it_is_sent(
    waiting: Client, name: str
) -> None:
    with waiting.publish(name) as publisher:
        with pytest.raises(UsageError, match="at most"):
            publisher.send(bytes(300_000))
        with pytest.raises(UsageError, match="not announced"):
            publisher.send("x", "kind")
        assert publisher.send("y") == 0
        publisher.finish()
        with pytest.raises(UsageError, match="nothing can be sent"):
            publisher.send("z")


def test_a_publisher_learns_that_its_stream_has_failed(
    waiting: Client, name: str
) -> None:
    publisher = waiting.publish(name)
    publisher.__enter__()
    publisher.send("x")
    publisher.flush()
    waiting.seal(name)
    publisher.send("y")
    with pytest.raises(StreamFailed, match="sealed"):
        publisher.flush()
    with pytest.raises(StreamFailed, match="sealed"):
        publisher.__exit__(None, None, None)


def test_leaving_by_an_exception_only_leaves(waiting: Client, name: str) -> None:
    with (
        pytest.raises(LookupError),
        waiting.publish(name) as publisher,
    ):
        raise LookupError
    assert publisher.outcome is None


def test_a_server_that_is_not_there_is_connection_lost() -> None:
    with pytest.raises(ConnectionLost), connect("ackline://127.0.0.1:1"):
        pass
    assert "ackline-client" not in {each.name for each in threading.enumerate()}


def test_a_client_that_was_left_says_so(server: ServerProcess, name: str) -> None:
    with connect(server.url) as client:
        subscription = client.subscribe("sources/endless")
        subscription.__enter__()
    with pytest.raises(ConnectionLost, match="closed"):
        client.ping()
    with pytest.raises(ConnectionLost, match="closed"):
        next(iter(subscription))
    subscription.__exit__(None, None, None)


def test_what_another_thread_waits_for_ends_with_the_client(
    server: ServerProcess,
) -> None:
    began = threading.Event()

    def listen() -> None:
        with client.subscribe("sources/count", params={"delay": 60.0}) as events:
            for _ in events:
                began.set()

    with ThreadPoolExecutor(1) as pool:
        with connect(server.url) as client:
            listening = pool.submit(listen)
            assert began.wait(10)
        with pytest.raises(ConnectionLost):
            listening.result(10)


def test_a_callback_that_waits_for_the_client_is_told_so(
    waiting: Client, name: str
) -> None:
    def ping(_: Progress) -> None:
        waiting.ping()

    with pytest.raises(UsageError, match="a callback of this client"):
        waiting.upload(b"x", name, on_progress=ping)


# Threads, Ctrl-C, exit, fork


def test_threads_share_a_client(waiting: Client, name: str) -> None:
    waiting.configure(name)
    with waiting.publish(name) as publisher:

        def work(number: int) -> bytes | None:
            for event in range(500):
                publisher.send(f"{number} {event}")
            waiting.upload(f"{number}".encode() * 1000, f"{name}/{number}")
            return waiting.fetch(f"{name}/{number}").data

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(8)))
    assert found == [f"{number}".encode() * 1000 for number in range(8)]
    waiting.seal(name)
    with waiting.subscribe(f"logs/{name}") as events:
        lines = [text.split() for text in texts(iter(events))]
    assert len(lines) == 4000
    for number in range(8):
        own = [int(event) for thread, event in lines if thread == str(number)]
        assert own == list(range(500))


def test_ctrl_c_ends_the_wait_and_nothing_else(waiting: Client) -> None:
    with waiting.subscribe("sources/endless") as events:
        seen: list[int] = []
        thread = interrupt_when(lambda: len(seen) > 3)
        with pytest.raises(KeyboardInterrupt):
            follow(events, lambda event: seen.append(event.id))
        thread.join()
        for event in events:
            seen.append(event.id)
            if len(seen) > 20:
                break
        # The one that was just taken when the signal came is not in the list.
        assert seen == sorted(set(seen))
        assert len(seen) - 1 <= seen[-1] <= len(seen)
        events.cancel(work=True)
    assert waiting.ping() > 0


def test_ctrl_c_ends_connecting() -> None:
    begun = threading.Event()
    thread = interrupt_when(begun.is_set)
    with (
        pytest.raises(KeyboardInterrupt),
        connect(
            "ackline://127.0.0.1:1",
            options=ClientOptions(wait_for_server=True),
            on_state=lambda _: begun.set(),
        ),
    ):
        pass
    thread.join()
    assert "ackline-client" not in {each.name for each in threading.enumerate()}


def test_a_program_may_end_without_leaving_its_client(server: ServerProcess) -> None:
    done = program(
        """
        import sys
        from ackline.client.blocking import connect

        client = connect(sys.argv[1]).__enter__()
        events = iter(client.subscribe("sources/endless").__enter__())
        print(next(events).text)
        """,
        server.url,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_forked_child_is_told_and_leaves_the_connection_alone(
    server: ServerProcess,
) -> None:
    done = program(
        """
        import os, sys, warnings
        from ackline.client import UsageError
        from ackline.client.blocking import connect

        warnings.simplefilter("ignore", DeprecationWarning)
        with connect(sys.argv[1]) as client:
            child = os.fork()
            if not child:
                try:
                    client.ping()
                except UsageError as error:
                    print(error, flush=True)
                with connect(sys.argv[1]) as own:
                    own.ping()
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            client.ping()
            print("the parent goes on")
        """,
        server.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "connect in this one" in done.stdout
    assert "the parent goes on" in done.stdout


# That nothing is missing


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_everything_the_client_can_is_there() -> None:
    assert public(asynchronous.Client) - public(Client) == {"close_threads"}
    of_streams = {"resource", "pause", "unpause"}
    own = public(asynchronous.Subscription) - public(Handle) | of_streams
    merging = {"emptied", "events", "leave_line", "over", "queue_in", "turn"}
    assert own - public(Subscription) - merging == {"advance"}
    own = public(asynchronous.Publisher) - public(Handle) | of_streams
    assert own - public(Publisher) == {"check_event"}


def test_methods_show_the_arguments_and_text_of_the_client() -> None:
    assert inspect.signature(Client.upload) == inspect.signature(
        asynchronous.Client.upload
    )
    assert Client.upload.__doc__ == asynchronous.Client.upload.__doc__
    assert inspect.signature(connect) == inspect.signature(asynchronous.connect)


def test_merged_subscriptions_come_in_order_and_their_outcomes_last(
    waiting: Client,
) -> None:
    ids: dict[Subscription, list[int]] = {}
    ends: dict[Subscription, OutcomeKind] = {}
    with ExitStack() as stack:
        params = {"events": 300, "delay": 0.0005}
        streams = [
            stack.enter_context(waiting.subscribe("sources/count", params=params)),
            stack.enter_context(waiting.subscribe("sources/broken")),
        ]
        items = merged(streams)
        late = stack.enter_context(waiting.subscribe("sources/count"))
        for stream, item in items:
            if isinstance(item, Outcome):
                ends[stream] = OutcomeKind(item.outcome)
                continue
            assert stream not in ends
            ids.setdefault(stream, []).append(item.id)
            if stream is streams[0] and item.id == 0:
                items.add(late)
            if item.id == 1:
                break  # and go on where it was
        for stream, item in items:
            if isinstance(item, Outcome):
                ends[stream] = OutcomeKind(item.outcome)
            else:
                ids.setdefault(stream, []).append(item.id)
        assert list(items) == []
    assert [ids[stream] for stream in (*streams, late)] == [
        list(range(count)) for count in (300, 3, 10)
    ]
    assert [ends[stream] for stream in (*streams, late)] == [
        OutcomeKind.COMPLETED,
        OutcomeKind.FAILED,
        OutcomeKind.COMPLETED,
    ]


def test_one_that_leaves_the_merged_ones_is_iterated_by_itself(waiting: Client) -> None:
    with (
        waiting.subscribe("sources/count") as one,
        waiting.subscribe("sources/count", params={"events": 3}) as other,
    ):
        items = merged([one, other])
        seen = 0
        for stream, item in items:
            if stream is one and not isinstance(item, Outcome):
                seen += 1
                if item.id == 3:
                    items.remove(one)
        assert seen == 4
        assert [event.id for event in one] == list(range(4, 10))


def test_only_subscriptions_of_one_client_are_merged(
    waiting: Client, server: ServerProcess
) -> None:
    with pytest.raises(UsageError, match="no subscription"):
        merged([])
    with (
        connect(server.url) as second,
        waiting.subscribe("sources/count") as one,
        second.subscribe("sources/count") as other,
        pytest.raises(UsageError, match="of one client"),
    ):
        merged([one, other])

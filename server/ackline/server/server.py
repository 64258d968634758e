"""The server as a program uses it: sources, sinks, and serving."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ackline.server.about import About
from ackline.server.acceptor import Acceptor
from ackline.server.authentication import Authenticator
from ackline.server.cleanup import clean_forever
from ackline.server.clients import AGENT
from ackline.server.collector import Collector
from ackline.server.configured import configured_sources
from ackline.server.counters import Counters
from ackline.server.looplag import watch_loop
from ackline.server.options import OptionError, Options
from ackline.server.revocation import watch_identities
from ackline.server.service import Service
from ackline.server.signals import on_hangup, stop_signals
from ackline.server.sinks import CONCURRENCY, Sink
from ackline.server.sources import Source
from ackline.server.stores.storage import Storage, StorageOptions
from ackline.server.systemd import notify, watchdog
from ackline.server.web.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from ackline.server.addresses import Address
    from ackline.server.authentication import AuthenticateFunction
    from ackline.server.sinks import SinkFunction
    from ackline.server.sources import Resumption, SourceFunction, WithoutConsumer

__all__ = ["Server", "Serving"]

log = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0
"""Seconds that what is being stored gets at the end: a slow disk's sync."""

F = TypeVar("F", bound="SourceFunction")
S = TypeVar("S", bound="SinkFunction")
A = TypeVar("A", bound="AuthenticateFunction")


class Serving:
    """A server that is running.

    Attributes:
        address: where clients connect.
        metrics: where Prometheus connects, or None.
        identities: how clients are known, for people.
    """

    def __init__(
        self, acceptor: Acceptor, metrics: Site | None, identities: str
    ) -> None:
        self._acceptor = acceptor
        self.identities = identities
        self.address: Address = acceptor.address
        self.metrics: Address | None = None if metrics is None else metrics.address

    @property
    def port(self) -> int:
        """The port clients connect to."""
        return self.address.port

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"{'acklines' if self._acceptor.tls else 'ackline'}://{self.address}"

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._acceptor.connections

    def reload(self) -> None:
        """Read certificate, key and authorities again, for connections from now on.

        Those that are open stay as they are.

        Raises:
            OptionError: a file cannot be used; what was read before stays in use.
        """
        self._acceptor.reload()

    async def drain(self, seconds: float) -> None:
        """Let clients finish what is on its way, and go; wait at most that long."""
        await self._acceptor.drain(seconds)


class Server:
    """An Ackline server with sources and sinks of the embedding program.

    ```python
    server = Server(Options(data_dir=Path("data")))


    @server.source("ticks")
    async def ticks(count: int = 10) -> AsyncGenerator[str]:
        for number in range(count):
            yield f"tick {number}"
            await asyncio.sleep(1)


    @server.sink("videos/*")
    async def index(video: CommittedObject) -> None:
        print(video.name, video.size, video.path)


    server.run()
    ```

    Args:
        options: everything that can be chosen; the defaults serve on loopback.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.sources: dict[str, Source] = {}
        self.sinks: list[Sink] = []
        self._authenticate: AuthenticateFunction | None = None

    def source(
        self,
        name: str,
        *,
        resumes: Resumption = "replay",
        durable: bool = False,
        kinds: Iterable[str] = (),
        without_consumer: WithoutConsumer | None = None,
        grace: float | None = None,
    ) -> Callable[[F], F]:
        """Register a function as `sources/NAME`, called for each run.

        An async generator function is called with the client's parameters as keyword
        arguments and yields bytes, str or `Event`. Cancelling the run cancels the
        generator; its `finally` runs, and is waited for.

        A plain function gets an `Emitter` before these, keeps it where events come
        from, and returns: a run then has no code of its own that would have to be
        woken, so one producer can feed thousands.

        Args:
            name: what clients subscribe to.
            resumes: `replay`: what was produced is kept and sent again to a client that
                reconnects. `recompute`: the function is called with `start`, the id of
                the first event to produce, and produces the same from any id on: it
                is called again after a restart of the server, and when somebody wants
                what is no longer kept. `none`: a run ends when its last consumer
                disconnects.
            durable: whether the events are kept in a log on the disk, and delivered
                once they are synced. They survive a restart of the server: a run that
                is recomputed goes on behind the last one, another ends there as failed.
            kinds: the kinds of its events, for a source that recomputes in memory:
                always in the same order.
            without_consumer: what a run does when its last consumer went: `continue`,
                `pause` before the next event, or `cancel` at once; None for the option
                `run_without_consumer`.
            grace: seconds without a consumer after which it is cancelled, `math.inf`
                for never; None for the option `run_grace`.

        Raises:
            ValueError: the name is taken or cannot be one, the function is neither of
                the two or cannot recompute, or the rest does not go together.
        """

        def register(function: F) -> F:
            if name in self.sources:
                raise ValueError(f"there is a source {name!r} already")
            self.sources[name] = Source(
                name,
                function,
                resumes,
                durable=durable,
                kinds=kinds,
                without_consumer=without_consumer,
                grace=grace,
            )
            return function

        return register

    def sink(
        self,
        pattern: str,
        *,
        name: str = "",
        timeout: float | None = None,
        concurrency: int = CONCURRENCY,
    ) -> Callable[[S], S]:
        """Register a function that is called with each committed object of a name.

        It is called at least once for each object, across crashes too, unless the
        object is deleted or replaced before. When it raises it is called again, after
        1 s doubling to 5 minutes, for as long as it takes; `ackline status` of the
        object tells why. At least once may be twice: `object_id` tells.

        An async function runs in the event loop, another one in a thread of its own.
        One function may be registered with several patterns.

        Args:
            pattern: `*` stands for any part of a name, `/` included.
            name: what an object that waits finds the sink by after a restart; that of
                the function if not given.
            timeout: seconds after which a call counts as failed. An async function is
                cancelled; a thread goes on, and the next call may overlap with it.
            concurrency: calls at a time; what is committed meanwhile waits.

        Raises:
            ValueError: another function has the name, or a number is not possible.
        """
        if concurrency < 1 or (timeout is not None and timeout <= 0):
            raise ValueError("concurrency and timeout are above 0")

        def register(function: S) -> S:
            own = name or getattr(function, "__name__", type(function).__name__)
            for known in self.sinks:
                if known.name == own and known.function is not function:
                    raise ValueError(
                        f"there is another sink {own!r} already: give one of them a"
                        " name=…, to be found by after a restart"
                    )
                if known.name == own:
                    known.patterns.append(pattern)
                    return function
            self.sinks.append(
                Sink(function, own, pattern, timeout=timeout, concurrency=concurrency)
            )
            return function

        return register

    def authenticate(self, function: A) -> A:
        """Register the function that says who a client is, and what it may do.

            @server.authenticate
            async def who(login: Login) -> Identity | None:
                user = await users.by_token(login.credential)
                return user and Identity(user.name, parse_permissions(["upload"]))

        It is asked about whoever the tokens file does not know, before anything else
        is done for the connection, and has 5 s. An exception is a refusal.

        Raises:
            ValueError: there is one already.
        """
        if self._authenticate is not None:
            raise ValueError("there is a function that authenticates already")
        self._authenticate = function
        return function

    @asynccontextmanager
    async def serve(self, options: Options | None = None) -> AsyncGenerator[Serving]:
        """Serve for the time of a block.

        Leaving it closes all connections; `Serving.drain()` before that lets clients
        finish first.

        Args:
            options: instead of those given to the server.

        Raises:
            OptionError: a source cannot be what `follow` or `exec` say, the tokens file
                cannot be used, or other machines could connect and are not asked who
                they are.
            ListenError: an address cannot be listened on.
            StoreError: the data folder cannot be used.
        """
        chosen = options or self.options
        sources = configured_sources(chosen, self.sources)
        authenticator = Authenticator(chosen, self._authenticate)
        counters = Counters()
        async with Storage.open(
            chosen.data_dir,
            StorageOptions(
                reserve=chosen.disk_reserve,
                segment_size=chosen.log_segment_bytes,
                tail_budget=chosen.cache_budget,
            ),
            observe_sync=counters.synced,
        ) as storage:
            service = Service(
                chosen,
                storage,
                sources=sources,
                sinks=self.sinks,
                counters=counters,
                authenticator=authenticator,
            )
            async with _listening(service) as serving:
                yield serving

    def run(self, options: Options | None = None) -> None:
        """Serve until SIGTERM or SIGINT: for a program that does nothing else."""
        asyncio.run(self.serve_until_stopped(options))

    async def serve_until_stopped(
        self,
        options: Options | None = None,
        *,
        started: Callable[[Serving], None] | None = None,
    ) -> None:
        """Serve until SIGTERM or SIGINT, drain, and return.

        SIGHUP has files read again that may change (`Serving.reload()`). It takes the
        process for its own: signals, what systemd is told, and the collection of
        garbage, which would stop a server of many streams for long. `serve()` touches
        none of them.

        Args:
            options: instead of those given to the server.
            started: called once clients can connect.

        Raises:
            OptionError: a source cannot be what `follow` or `exec` say.
            ListenError: an address cannot be listened on.
            StoreError: the data folder cannot be used.
        """
        chosen = options or self.options
        with stop_signals() as stopped:
            async with self.serve(chosen) as serving:
                collector = Collector()
                with collector.running(), on_hangup(partial(_reload, serving)):
                    if started is not None:
                        started(serving)
                    log.info("started: %s", _about(serving, chosen))
                    notify("READY=1")
                    living = asyncio.create_task(watchdog())
                    looking = asyncio.create_task(
                        collector.look_after(lambda: serving.connections)
                    )
                    await stopped.first()
                    looking.cancel()
                    notify("STOPPING=1")
                    log.info("stopping: clients have %g s to go", chosen.drain_seconds)
                    draining = asyncio.create_task(serving.drain(chosen.drain_seconds))
                    await stopped.second_or(draining)
                    living.cancel()
        log.info("stopped")


def _about(serving: Serving, options: Options) -> About:
    return About(
        f"{AGENT} at {serving.url}, data in {options.data_dir}",
        version=AGENT,
        url=serving.url,
        metrics=str(serving.metrics or "off"),
        data_dir=str(options.data_dir.absolute()),
    )


def _reload(serving: Serving) -> None:
    try:
        serving.reload()
    except OptionError as error:
        log.error("%s: what was read before stays in use", error)


@asynccontextmanager
async def _listening(service: Service) -> AsyncGenerator[Serving]:
    """Open the ports for the time of a block."""
    acceptor = Acceptor(service)
    metrics: Site | None = None
    always: list[asyncio.Task[None]] = []
    try:
        await service.start()
        always = [
            asyncio.create_task(clean_forever(service), name="cleanup"),
            asyncio.create_task(watch_identities(service), name="identities"),
            asyncio.create_task(watch_loop(service.counters.loop_lag), name="loop lag"),
        ]
        if service.options.metrics is not None:
            metrics = Site(service, service.options.metrics)
            await metrics.start()
        with service.load.watched():
            await acceptor.start()
            yield Serving(acceptor, metrics, service.authenticator.mode)
    finally:
        await acceptor.drain(0)
        await acceptor.close()
        for task in always:
            task.cancel()
        await asyncio.gather(*always, return_exceptions=True)
        stopping = service.options.command_grace if service.options.exec else 0.0
        await service.stop(SETTLE_SECONDS + stopping)
        if metrics is not None:
            await metrics.close()

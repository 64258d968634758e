"""What everything in a running server shares."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ackline.proto.allowance import Allowance
from ackline.proto.buffers import BufferPool
from ackline.proto.messages import Durability
from ackline.proto.server_connection import ServerConnection
from ackline.proto.stats import Stats
from ackline.proto.windows import Budget
from ackline.server.arrivals import Places
from ackline.server.counters import Counters
from ackline.server.deliveries import Deliveries
from ackline.server.histories import Histories
from ackline.server.lately import Lately
from ackline.server.load import Load
from ackline.server.rates import Rates
from ackline.server.runs import Runs
from ackline.server.sessions import Sessions
from ackline.server.tasks import Tasks
from ackline.server.tracing import Traces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ackline.proto.connection import Connection
    from ackline.proto.messages import Outcome
    from ackline.proto.stream import Stream
    from ackline.server.authentication import Authenticator
    from ackline.server.clients import Client
    from ackline.server.handler import Handler
    from ackline.server.options import Options
    from ackline.server.quotas import StoredBytes
    from ackline.server.sinks import Sink
    from ackline.server.sources import Source
    from ackline.server.stores.storage import Storage

__all__ = ["Service"]

log = logging.getLogger(__name__)


class Service:
    """The server between start and stop.

    Attributes:
        options, limits, durability: as chosen.
        storage, chunks, logs: the stores.
        authenticator: says who clients are.
        stats, counters: of the core, and of the server.
        lately: what has ended.
        traces: spans of what goes on.
        histories: what happened to what.
        pool: buffers of all connections.
        budget, send_budget: memory for what comes in, and for what is read to go out.
        rates: of identities that may move so much a second.
        stored: of identities with a quota of stored bytes that upload.
        tasks: everything that runs in the background.
        sessions, runs, deliveries: see their classes.
        clients: all connections.
        places: for connections, in all and from each address.
        load: whether there is more to do than can be done.
        arriving: how much of that may be for new connections.
        owners: which handler has `uploads/ID` or a publisher, so that an OPEN with the
            same key can take it over.
        draining: whether the server is about to stop.
    """

    def __init__(
        self,
        options: Options,
        storage: Storage,
        *,
        sources: Mapping[str, Source],
        sinks: Sequence[Sink],
        counters: Counters,
        authenticator: Authenticator,
    ) -> None:
        self.options = options
        self.limits = options.limits
        self.durability = (
            Durability.SYNCED if options.durability == "synced" else Durability.WRITTEN
        )
        self.storage = storage
        self.chunks = storage.chunks
        self.logs = storage.logs
        self.stats = Stats()
        self.counters = counters
        self.authenticator = authenticator
        self.lately = Lately()
        self.traces = Traces()
        self.pool = BufferPool()
        self.budget = Budget(options.receive_budget)
        self.send_budget = Budget(options.send_budget)
        self.rates = Rates(self.stats)
        self.stored = WeakValueDictionary[str, "StoredBytes"]()
        self.tasks = Tasks()
        self.histories = Histories(storage.histories, self.tasks)
        self.clients: dict[ServerConnection, Client] = {}
        self.places = Places(
            most=options.max_connections, most_each=options.max_connections_per_address
        )
        self._loop = asyncio.get_running_loop()
        self.load = Load()
        self.arriving = Allowance(self.load.pressure, self.now())
        self.owners: dict[str, Handler] = {}
        self.draining = False
        self.started = time.time()
        self._locks = WeakValueDictionary[str, asyncio.Lock]()
        self.sessions = Sessions(self)
        self.runs = Runs(self, sources)
        self.deliveries = Deliveries(self, sinks)

    def now(self) -> float:
        """Return monotonic seconds: the clock of all timers."""
        return self._loop.time()

    def lock(self, name: str) -> asyncio.Lock:
        """Return the lock of this name; one that nobody holds disappears."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def connected(self, client: Client) -> None:
        """Count a connection."""
        self.clients[client.core] = client
        self.counters.connections += 1

    def disconnected(self, client: Client) -> None:
        """Forget a connection."""
        self.clients.pop(client.core, None)

    def client_of(self, core: ServerConnection) -> Client:
        """Return whose connection it is."""
        return self.clients[core]

    def connection_of(self, stream: Stream) -> ServerConnection:
        """Return the connection of a stream that has one."""
        connection = stream.connection
        assert isinstance(connection, ServerConnection)
        return connection

    def still_stopping(
        self, connection: Connection, stream: Stream, outcome: Outcome
    ) -> None:
        """Tell a client that cancelled that user code takes its time."""
        if connection is stream.connection:
            self.connection_of(stream).still_stopping(stream, outcome)

    async def start(self) -> None:
        """Take up what an earlier process left: runs that died, sinks to be called.

        Raises:
            StoreError: the records cannot be read or changed.
        """
        await self.runs.start()
        await self.deliveries.start()

    async def stop(self, seconds: float) -> None:
        """End what runs; sources and what is being stored get `seconds` each."""
        await asyncio.gather(self.runs.stop(seconds), self.deliveries.stop(seconds))
        await self.tasks.close(seconds)
        await self.histories.save()
        try:
            await self.storage.checkpoint()
        except Exception as error:  # noqa: BLE001 - nothing is lost by it
            log.warning("no checkpoint was made: %s", error)

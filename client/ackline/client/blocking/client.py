"""What a program without asyncio calls."""

from __future__ import annotations

import asyncio
import atexit
import functools
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from ackline.client.addresses import DEFAULT_URL
from ackline.client.blocking.portal import Portal
from ackline.client.blocking.publishers import Publisher
from ackline.client.blocking.subscriptions import Subscription
from ackline.client.client import Client as AsyncClient
from ackline.client.connecting import connect as async_connect

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from types import TracebackType
    from typing import Any

    from ackline.client.connection_states import ConnectionState
    from ackline.client.options import ClientOptions
    from ackline.client.publishers import Publisher as AsyncPublisher
    from ackline.client.subscriptions import Subscription as AsyncSubscription
    from ackline.client.tokens import Token

__all__ = ["Client", "connect"]

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 256
"""Items brought over from the loop's thread together."""


def _answers(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return a coroutine method of the client as one that waits."""

    @functools.wraps(method)
    def wait(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.portal.call(method(self.client, *args, **kwargs))

    return wait


def _yields(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[T]],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """Return an asynchronous generator of the client as a plain one."""

    async def some(items: AsyncIterator[T]) -> list[T]:
        found: list[T] = []
        while len(found) < AT_ONCE:
            try:
                found.append(await anext(items))
            except StopAsyncIteration:
                break
        return found

    @functools.wraps(method)
    def iterate(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self.client, *args, **kwargs)
        while found := self.portal.call(some(items)):
            yield from found

    return iterate


def _subscribes(
    method: Callable[Concatenate[AsyncClient, P], AsyncSubscription],
) -> Callable[Concatenate[Client, P], Subscription]:
    @functools.wraps(method)
    def make(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Subscription:
        return Subscription(self.portal, method(self.client, *args, **kwargs))

    return make


def _publishes(
    method: Callable[Concatenate[AsyncClient, P], AsyncPublisher],
) -> Callable[Concatenate[Client, P], Publisher]:
    @functools.wraps(method)
    def make(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Publisher:
        return Publisher(self.portal, method(self.client, *args, **kwargs))

    return make


class Client:
    """One session with a server, for programs without asyncio; from `connect()`.

    Every method does what the method of that name of `ackline.client.Client` does, with
    the same arguments, results and exceptions, and waits. All may be called by several
    threads at once.

    Ctrl-C in the main thread ends what it waits for, like cancelling the coroutine:
    nothing is cancelled at the server. `on_progress` and `on_state` are called in the
    client's own thread, and must not call the client.
    """

    def __init__(self, portal: Portal, client: AsyncClient) -> None:
        self.portal = portal
        self.client = client

    @property
    def url(self) -> str:
        """The server, after redirects."""
        return self.client.url

    @property
    def home(self) -> str:
        """The server asked for: what is remembered is remembered for it."""
        return self.client.home

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self.client.connected

    upload = _answers(AsyncClient.upload)
    fetch = _answers(AsyncClient.fetch)
    upload_folder = _answers(AsyncClient.upload_folder)
    fetch_folder = _answers(AsyncClient.fetch_folder)
    publish = _publishes(AsyncClient.publish)
    subscribe = _subscribes(AsyncClient.subscribe)

    list = _yields(AsyncClient.list)
    status = _answers(AsyncClient.status)
    delete = _answers(AsyncClient.delete)
    seal = _answers(AsyncClient.seal)
    configure = _answers(AsyncClient.configure)
    cancel = _answers(AsyncClient.cancel)
    ping = _answers(AsyncClient.ping)


class connect:  # noqa: N801 - used like a function: with connect(…) as client
    """Connect to a server: a context manager that yields a `Client`.

    Arguments and exceptions are those of `ackline.client.connect`. The connection lives
    in a thread of its own. A program that ends without leaving the context ends the
    session all the same. After a fork the client stays with the parent: the child gets
    a UsageError, and leaves the connection alone.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        tls: ssl.SSLContext | None = None,
        token: Token | None = None,
        options: ClientOptions | None = None,
        on_state: Callable[[ConnectionState], None] | None = None,
    ) -> None:
        self._make = functools.partial(
            async_connect,
            url,
            tls=tls,
            token=token,
            options=options,
            on_state=on_state,
        )
        self._portal: Portal | None = None
        self._leave = asyncio.Event()
        self._session: asyncio.Task[None] | None = None

    def __enter__(self) -> Client:
        portal = self._portal = Portal()
        try:
            client = portal.call(self._begin())
        except BaseException:
            portal.close()
            raise
        atexit.register(self._close)
        return Client(portal, client)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        portal = self._portal
        if portal is None or not portal.usable:
            return
        atexit.unregister(self._close)
        try:
            portal.call(self._end())
        finally:
            portal.close()

    # In the loop

    async def _begin(self) -> AsyncClient:
        made: asyncio.Future[AsyncClient] = asyncio.get_running_loop().create_future()
        session = self._session = asyncio.create_task(self._hold(made))
        either: list[asyncio.Future[Any]] = [made, session]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            session.cancel()
            await asyncio.wait([session])
            raise
        if not made.done():
            await session  # raises why it ended
        return await made

    async def _hold(self, made: asyncio.Future[AsyncClient]) -> None:
        """Enter and leave in one task, as a TaskGroup wants it."""
        async with self._make() as client:
            made.set_result(client)
            await self._leave.wait()

    async def _end(self) -> None:
        assert self._session is not None
        self._leave.set()
        await self._session

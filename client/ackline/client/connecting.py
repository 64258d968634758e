"""How a program gets a `Client`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ackline.client.addresses import DEFAULT_URL, parse_url
from ackline.client.client import Client
from ackline.client.options import ClientOptions
from ackline.client.supervisor import Supervisor

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    from ackline.client.connection_states import ConnectionState
    from ackline.client.tokens import Token

__all__ = ["connect"]


class connect:  # noqa: N801 - used like a function: async with connect(…) as client
    """Connect to a server: an async context manager that yields a `Client`.

    Entering waits for the server's first answer. Leaving ends the session: what is
    under way is released, not cancelled.

    Args:
        url: `ackline://HOST:PORT`, or `acklines://HOST:PORT` for TLS.
        tls: how to speak it, for an authority or a certificate of one's own
            (`client_context()`); by default the system's authorities are trusted.
        token: bearer token, if the server wants one; or a function, perhaps async, that
            returns the one to use now. It is called for each connection.
        options: limits, memory and patience.
        on_state: called with each change of the connection.

    Raises:
        UsageError: the URL is none.
        ConnectionLost: the first connection fails; `wait_for_server` tries on.
        Refused: the server does not want this client.
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
        self._address = parse_url(url)
        self._tls = tls
        self._token = token
        self._options = options or ClientOptions()
        self._on_state = on_state
        self._group = asyncio.TaskGroup()
        self._supervisor: Supervisor | None = None
        self._client: Client | None = None

    async def __aenter__(self) -> Client:
        await self._group.__aenter__()
        supervisor = self._supervisor = Supervisor(
            self._address,
            self._group,
            tls=self._tls,
            token=self._token,
            options=self._options,
            on_state=self._on_state,
        )
        self._group.create_task(supervisor.run())
        try:
            await supervisor.first
        except BaseException:
            await self._close()
            raise
        self._client = Client(supervisor, self._options, self._another)
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    @asynccontextmanager
    async def _another(self) -> AsyncGenerator[Supervisor]:
        """Connect to the same server once more, with a session of its own."""
        other = connect(
            str(self._address), tls=self._tls, token=self._token, options=self._options
        )
        async with other:
            assert other._supervisor is not None
            yield other._supervisor

    async def _close(self) -> None:
        """End every task; the caller's own exception is not wrapped in a group."""
        assert self._supervisor is not None
        self._supervisor.close()
        await self._group.__aexit__(None, None, None)
        if self._client is not None:
            self._client.close_threads()

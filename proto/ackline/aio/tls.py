"""TLS between a socket and its pump, the same on both sides (SPEC.md §2).

asyncio's own drops the alert that would tell the peer why a handshake failed, and keeps
256 KiB of buffer for each connection. Here alerts are sent, what was read encrypted
lies in a buffer that all connections share, and nothing is queued above the socket's
own transport, so that at most one fragment waits (SPEC.md §21).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, cast

from ackline.proto.limits import ALPN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = ["TlsLayer"]

_NOT_AGREED = f"the server does not name {ALPN} (ALPN): is it an Ackline server?"


class TlsLayer(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a socket, and the transport of the protocol behind it.

    That one is told of its connection once the handshake is over, and never if it
    fails: `handshake` has the reason then.

    Args:
        inner: the protocol behind.
        context: certificates, and what is verified.
        scratch: where encrypted bytes are read to; empty again after each call, so that
            all connections of an event loop may share it.
        server_hostname: whose certificate a client wants to see; None for a server.

    Attributes:
        handshake: done when `inner` is connected. Its exception is an `ssl.SSLError` or
            another `OSError`.
    """

    __slots__ = (
        "_ended",
        "_failure",
        "_incoming",
        "_inner",
        "_object",
        "_outgoing",
        "_paused",
        "_raw",
        "_scratch",
        "handshake",
    )

    def __init__(
        self,
        inner: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        scratch: memoryview,
        *,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._scratch = scratch
        self._raw: asyncio.Transport | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._paused = False
        self._ended = False
        self._failure: Exception | None = None
        self.handshake: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )

    @property
    def agreed(self) -> bool:
        """Whether both sides named the protocol (ALPN)."""
        return self._object.selected_alpn_protocol() == ALPN

    # The protocol of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._raw = cast("asyncio.Transport", transport)
        if self._failure is not None:
            self._raw.abort()
        self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take encrypted bytes."""
        if self._ended:
            # It counts what is dropped, and stops reading after so much.
            self._inner.buffer_updated(nbytes)
            return
        self._incoming.write(self._scratch[:nbytes])
        if self.handshake.done():
            self._pull()
        else:
            self._shake()

    def eof_received(self) -> None:
        """Close: a half-closed connection is of no use."""

    def pause_writing(self) -> None:
        """Pass it on."""
        if self.handshake.done():
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self.handshake.done():
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, or tell that the handshake failed."""
        self._raw = None
        reason = self._failure or exc
        if not self.handshake.done():
            self.handshake.set_exception(
                reason or ConnectionResetError("closed in the TLS handshake")
            )
            # Who gave up waiting for it has no use for the reason.
            self.handshake.exception()
        elif not self.handshake.cancelled() and self.handshake.exception() is None:
            self._inner.connection_lost(reason)

    # The transport of the protocol behind

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket's, or `ssl_object`."""
        if name == "ssl_object":
            return self._object
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Set those of the socket."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def write(self, data: Buffer) -> None:
        """Encrypt and write."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Encrypt and write, all at once."""
        if self._failure is None and not self._ended and not self.is_closing():
            for data in list_of_data:
                self._object.write(data)
            self._flush()

    def pause_reading(self) -> None:
        """Read no further; what was read already stays encrypted."""
        self._paused = True
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on, first what was read already."""
        if self._paused and self._raw is not None:
            self._paused = False
            self._raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._pull)

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return self._raw is None or self._raw.is_closing()

    def close(self) -> None:
        """Say goodbye to the peer, and close once everything is written."""
        if self._raw is not None and not self._raw.is_closing():
            self._say_goodbye()
            self._raw.close()

    def write_eof(self) -> None:
        """Say goodbye to the peer; what it sends from now on is dropped."""
        if self._raw is not None and not self._raw.is_closing():
            self._say_goodbye()
            self._raw.write_eof()

    def abort(self) -> None:
        """Close at once, also what is only about to be connected."""
        if self._raw is not None:
            self._raw.abort()
        elif not self.handshake.done():
            self._failure = ConnectionAbortedError("given up")

    # Private

    def _shake(self) -> None:
        """Go on with the handshake as far as there are bytes for it."""
        if self._failure is not None or self.handshake.done():
            return
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            # A client says HELLO at once, but to nobody who might take it for something
            # else. A server answers it, with what to do.
            if not self._object.server_side and not self.agreed:
                self._fail(ConnectionError(_NOT_AGREED))
                return
            self.handshake.set_result(None)
            self._inner.connection_made(self)
            self._pull()

    def _say_goodbye(self) -> None:
        if self.handshake.done() and self._failure is None and not self._ended:
            # The peer's own goodbye is not waited for.
            with contextlib.suppress(ssl.SSLError):
                self._object.unwrap()
            self._flush()
        self._ended = True

    def _pull(self) -> None:
        """Decrypt what was read, into where the protocol behind wants it."""
        if self._ended:
            return
        while not self._paused and self._failure is None and self._raw is not None:
            place = self._inner.get_buffer(-1)
            filled, more = self._fill(memoryview(place))
            if filled:
                self._inner.buffer_updated(filled)
            if not more:
                break
        self._flush()

    def _fill(self, place: memoryview) -> tuple[int, bool]:
        """Decrypt into a place; return how much, and whether there may be more."""
        filled, size = 0, len(place)
        try:
            while filled < size:
                # A record at a time, 16 KiB at most: fewer calls of the one behind.
                rest = place[filled:]
                count = cast("int", self._object.read(len(rest), rest))
                if not count:
                    self.close()
                    return filled, False
                filled += count
        except ssl.SSLWantReadError:
            return filled, False
        except ssl.SSLError as error:
            self._fail(error)
            return filled, False
        return filled, True

    def _flush(self) -> None:
        if self._outgoing.pending and self._raw is not None:
            self._raw.write(self._outgoing.read())

    def _fail(self, error: OSError) -> None:
        """Tell the peer by an alert, and close."""
        self._failure = error
        self._flush()
        if self._raw is not None:
            self._raw.close()

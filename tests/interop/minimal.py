"""A blocking client for a small device, written from SPEC.md and nothing else.

Like `codec` and `streams` it imports no part of this project and nothing outside the
standard library. `Client.wait` does all the work: it reads, answers and sends until
something holds. A lost connection is a ConnectionError, and says nothing about any
stream.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from .codec import MIN_PAYLOAD, MORE, Fields, Frame, decode, encode_fields, need
from .streams import PATIENCE, limits, raised, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .streams import Stream

LIMITS: Fields = {
    "max_payload": MIN_PAYLOAD,
    "max_chunk_size": 2**17,
    "max_streams": 0,
    "window_units": 64,
    "window_bytes": 2**17,
    "initial_units": 0,
    "initial_bytes": 0,
    "heartbeat": 2.0,
}


class Client:
    """One session, and the connection it has now.

    A `token` identifies the client (SPEC.md §7); without one it is anonymous.
    """

    def __init__(self, port: int, *, token: bytes = b"", **limits: Any) -> None:
        self.token = token
        self.address, self.limits = ("127.0.0.1", port), {**LIMITS, **limits}
        self.session: Fields | None = None
        self.streams: dict[int, Stream] = {}
        self.next_id = self.next_request = 1

    def connect(self, sock: socket.socket | None = None) -> None:
        """Connect for a new session, or for the one there was.

        Raises:
            ProtocolError: The server refused. With the code `unknown_session` the
                client has a new session in which streams can be opened again.
        """
        self.socket = sock or socket.create_connection(self.address, timeout=PATIENCE)
        self.input, self.inbox = bytearray(), list[Frame]()
        self.sent_bytes = self.received_bytes = 0
        self.used, self.window = (0, 0), (64, 2**16)
        self.taken = self.returned = (0, 0)
        self.leaving: Fields | None = None
        self.resumed = self.session is None
        self.heard = time.monotonic()
        hello: Fields = {"version": 1, "oldest": 1, "credential": self.token}
        hello["scheme"] = "bearer" if self.token else ""
        hello |= {"agent": "device/1", "limits": self.limits}
        self.send("HELLO", **hello, resume=self.session is not None)
        self.welcome = self.answer("WELCOME").fields()
        self.window = raised(self.window, self.welcome["limits"], "window")
        if self.session is None:
            self.session = self.welcome["session"]
        else:
            self._resume(self.session)

    def _resume(self, session: Fields) -> None:
        names = {name: session[name] for name in ("session_id", "token")}
        entries = [stream.resume() for stream in self.streams.values()]
        self.send("RESUME", **names, streams=entries)
        more = MORE
        while more:
            frame = self.answer("RESUMED")
            more, resumed = frame.flags & MORE, frame.fields()
            self.session = session = resumed["session"]
            if resumed["code"]:
                self.streams, self.next_id, self.resumed = {}, 1, True
                raise refusal(resumed)
            for entry in resumed["streams"]:
                self.streams[entry["stream_id"]].resumed(entry)
        self.send("CONFIRM", sequence=session["epoch"])
        self.resumed = True

    def kill(self) -> None:
        """Lose the connection as a device that loses its power does."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def goodbye(self) -> None:
        """End the session and the connection."""
        self.send("GOAWAY", code=0, text="")
        self.socket.close()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(self, name: str, stream_id: int = 0, sequence: int = 0, **f: Any) -> None:
        """Send a control frame with these fields."""
        self.send_raw(name, 0, 0, stream_id, sequence, encode_fields(name, f))

    def send_raw(self, *columns: Any) -> None:
        """Send a Frame."""
        data = Frame(*columns).encode()
        self.sent_bytes += len(data)
        self.socket.sendall(data)

    def receive(self, patience: float) -> bool:
        """Take one frame; False if none came within `patience` seconds."""
        while (decoded := decode(self.input, self.limits["max_payload"])) is None:
            if not select.select([self.socket], [], [], patience)[0]:
                return False
            data = self.socket.recv(2**16)
            if not data:
                self.socket.close()
                raise ConnectionResetError("the server closed")
            self.heard = time.monotonic()
            self.input += data
        frame, size = decoded
        del self.input[:size]
        self.received_bytes += size
        if frame.stream_id and frame.name:
            self._hand_out(frame)
        elif frame.name:
            self._take(frame)
        return True

    def _hand_out(self, frame: Frame) -> None:
        need(frame.stream_id < self.next_id, frame.name, "unknown_stream")
        if frame.name in ("CHUNK", "EVENTS"):
            entries = int.from_bytes(frame.payload[:4])
            units = entries if frame.name == "EVENTS" else not frame.fragment
            self.taken = (self.taken[0] + units, self.taken[1] + len(frame.payload))
            self._return_credit()
        if frame.stream_id in self.streams:
            self.streams[frame.stream_id].take(frame)

    def _return_credit(self) -> None:
        window = (self.limits["window_units"], self.limits["window_bytes"])
        due = [(t - r) * 2 for t, r in zip(self.taken, self.returned, strict=True)]
        if due[0] >= window[0] or due[1] >= window[1]:
            self.returned = self.taken
            self.send("CREDIT", **limits(self.taken, window))

    def _take(self, frame: Frame) -> None:
        fields = frame.fields()
        match frame.name:
            case "PING":
                self.send("PONG", sequence=frame.sequence, **self.totals())
            case "CREDIT":
                self.window = raised(self.window, fields)
            case "GOAWAY":
                self.leaving = fields
            case "REDIRECT":
                url = urlsplit(fields["url"])
                self.address = (url.hostname or "", url.port or 7171)
            case "ERROR" if not frame.sequence:
                self.socket.close()
                raise refusal(fields)
            case _:
                self.inbox.append(frame)

    def totals(self) -> Fields:
        """Return the fields of PING and PONG."""
        return {"sent_bytes": self.sent_bytes, "received_bytes": self.received_bytes}

    def wait(self, done: Callable[[], object], patience: float = PATIENCE) -> None:
        """Read and send until `done`; PING when the server is silent (§17)."""
        until, pinged = time.monotonic() + patience, 0.0
        heartbeat = self.limits["heartbeat"]
        while not done():
            streams = list(self.streams.values()) if self.resumed else []
            sent = [stream.step() for stream in streams]
            if self.receive(0 if any(sent) else 0.05) or any(sent):
                continue
            now = time.monotonic()
            if now - self.heard > 3 * heartbeat or now > until:
                raise TimeoutError(f"{now - self.heard:.1f} s of silence")
            if now - max(self.heard, pinged) > heartbeat:
                pinged = now
                self.send("PING", sequence=1, **self.totals())

    def answer(self, name: str, sequence: int = 0) -> Frame:
        """Wait for an answer; an ERROR instead of it is raised."""

        def found() -> list[Frame]:
            keys = ((name, sequence), ("ERROR", sequence))
            return [f for f in self.inbox if (f.name, f.sequence) in keys]

        self.wait(found)
        frame = found()[0]
        self.inbox.remove(frame)
        if frame.name == "ERROR":
            raise refusal(frame.fields())
        return frame

    def request(self, name: str, answer: str, **fields: Any) -> Fields:
        """Send LIST, STATUS, … or CANCEL from anywhere, and return the answer."""
        number, self.next_request = self.next_request, self.next_request + 1
        self.send(name, sequence=number, **fields)
        return self.answer(answer, number).fields()

    def ping(self) -> Fields:
        """Return what the server's PONG says."""
        return self.request("PING", "PONG", **self.totals())

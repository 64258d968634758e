"""Scripts to begin with: the golden vectors, and what two cores say to each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ackline.proto.messages import Scope
from tests.fuzz.scripts import What, pack, script_of
from tests.fuzz.targets import FuzzClient, FuzzServer
from tests.proto.joined import Pair
from vectors import generate

if TYPE_CHECKING:
    from ackline.proto.connection import Connection

__all__ = ["seeds"]


class _Recorded(Pair):
    """Keeps what each side sends as a script for the other."""

    def __init__(self) -> None:
        self.scripts = {"server": b"", "client": b""}
        client = FuzzClient()
        super().__init__(FuzzServer(), client)
        client.begin()

    def connect(self) -> None:
        if hasattr(self, "c"):
            for side in self.scripts:
                self.scripts[side] += pack(What.RECONNECT)
        super().connect()

    def _write(self, core: Connection, wire: bytearray) -> bool:
        size = len(wire)
        moved = super()._write(core, wire)
        side = "server" if core is self.c else "client"
        self.scripts[side] += script_of(bytes(wire[size:]))
        return moved


def _conversations() -> list[_Recorded]:
    whole, cut, cancelled = _Recorded(), _Recorded(), _Recorded()
    whole.run()
    for _ in range(3):
        cut.step()
    cut.reconnect()
    for _ in range(3):
        cut.step()
    cut.reconnect()
    cut.run()
    for _ in range(2):
        cancelled.step()
    for stream in list(cancelled.client.session.streams.values()):
        stream.pause(paused=True)
        cancelled.step()
        cancelled.c.cancel(stream, scope=Scope.STREAM)
        cancelled.c.ping()
        cancelled.step()
        cancelled.c.release(stream)
    cancelled.run()
    cancelled.c.go_away()
    cancelled.run()
    return [whole, cut, cancelled]


def seeds(target: str) -> list[bytes]:
    """Return scripts to begin with."""
    vectors = [
        bytes.fromhex(vector["frame"])
        for name in ("frames-valid.json", "frames-invalid.json", "frames-skipped.json")
        for vector in json.loads((generate.FOLDER / name).read_text())["vectors"]
    ]
    frames = [script_of(frame) for frame in vectors if len(frame) < 4096]
    if target == "decoder":
        return frames
    talks = [talk.scripts[target] for talk in _conversations()]
    greeting = {"server": b"\x01", "client": b"\x02"}[target]  # the type of each first
    begin = next(frame for frame in frames if frame[1:2] == greeting)
    return talks + [begin + frame for frame in frames]

"""What the cutting link sees is what went through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.cut_link import DELAY, Frames
from bench.runner import Runner, contenders
from bench.specs import Resume

from ackline.proto.frames import FrameType, encode_frame

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_frames_are_found_wherever_they_are_cut(step: int) -> None:
    chunk, ack = bytes(100), b"an ACK"
    stream = encode_frame(FrameType.PING) + encode_frame(
        FrameType.CHUNK, chunk, stream_id=1, sequence=7
    )
    stream += encode_frame(FrameType.ACK, ack, stream_id=1, sequence=3)
    sizes: dict[tuple[int, int], int] = {}
    acks: list[bytes] = []

    def take(kind: int, number: int, size: int, payload: bytes) -> None:
        sizes[kind, number] = sizes.get((kind, number), 0) + size
        if payload:
            acks.append(payload)

    frames = Frames(take)
    for at in range(0, len(stream), step):
        frames.feed(memoryview(stream)[at : at + step])
    assert sizes == {
        (FrameType.PING, 0): 0,
        (FrameType.CHUNK, 7): len(chunk),
        (FrameType.ACK, 3): 0,
    }
    assert acks == [ack]


@pytest.mark.parametrize(
    "spec",
    [Resume(size=12 << 20, cut_at=9_000_000), Resume(what="streams", streams=5)],
    ids=lambda spec: spec.what,
)
def test_a_connection_is_cut_and_comes_back(tmp_path: Path, spec: Resume) -> None:
    runner = Runner(tmp_path)
    try:
        result = runner.run(contenders(["ackline"])[0][0], spec, 0)
    finally:
        runner.close()
    round_trip = 2 * DELAY * 1e3
    if spec.what == "streams":
        assert result.extra["resumed_ms"] >= round_trip * 0.9
    else:
        assert result.extra["first_unit_ms"] >= round_trip * 0.9
        assert 0 < result.extra["resent_bytes"] <= result.extra["unacknowledged"]

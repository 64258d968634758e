"""Each role does its work in its own process, and wrong results are seen."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest
from bench.__main__ import main
from bench.compare import compare
from bench.latency import Latencies, due_body
from bench.report import markdown, quantity
from bench.results import Result, read, rows, write
from bench.runner import Contender, Failure, Runner, contenders
from bench.specs import (
    Fanout,
    Fetch,
    Idle,
    Many,
    Mixed,
    Publish,
    Spec,
    Start,
    Subscribe,
    Upload,
)
from bench.workloads import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
SMALL: tuple[Spec, ...] = (
    Upload(size=3 * MIB, chunk_size=MIB, durability="synced", folder="disk"),
    Fetch(size=3 * MIB, chunk_size=MIB),
    Subscribe(events=3_000),
    Publish(events=3_000),
    Many(streams=6, connections=2, seconds=0.3),
    Many(streams=6, connections=2, seconds=0.3, producers="each"),
    Fanout(subscribers=3, seconds=0.3),
    Mixed(size=8 * MIB),
    Idle(connections=100, streams=100),
    Idle(connections=2, streams=100, kind="generator"),
)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path)
    yield runner
    runner.close()


def contender(name: str) -> Contender:
    able, _ = contenders([name])
    return able[0]


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.variant)
@pytest.mark.parametrize("name", ["ackline", "raw-crc"])
def test_a_run_measures_both_sides(runner: Runner, name: str, spec: Spec) -> None:
    peer = contender(name)
    if not peer.does(spec):
        pytest.skip(f"{name} has no roles for it")
    result = runner.run(peer, spec, 0)
    assert result.peer == name
    assert result.units > 0
    assert result.seconds > 0
    assert result.checked
    assert result.server_peak > MIB
    assert result.client_peak > MIB
    if isinstance(spec, Many | Mixed):
        assert result.latency is not None
        assert 0 <= result.latency.p50 <= result.latency.p99 <= result.latency.max


def test_the_time_to_start_is_measured(runner: Runner) -> None:
    extra = runner.run(contender("ackline"), Start(), 0).extra
    assert extra["import_ms"] > 0
    assert extra["start_ms"] > 0


@pytest.mark.parametrize("name", ["ackline", "raw"])
def test_a_wrong_result_is_no_result(runner: Runner, name: str) -> None:
    spec = Upload(size=MIB)
    runner.run(contender(name), spec, 0)
    path, crc = runner.sources[MIB]
    runner.sources[MIB] = path, crc ^ 1
    with pytest.raises(Failure, match="wrong result"):
        runner.run(contender(name), spec, 1)


def test_a_peer_that_is_not_installed_is_skipped_with_its_reason() -> None:
    contender("raw")
    able, skipped = contenders([])
    assert {c.module for c in able}.isdisjoint(skipped)
    for reason in skipped.values():
        assert "install" in reason or "needs" in reason


def made(rate: float, repetition: int = 0, peer: str = "ackline") -> Result:
    return Result(
        workload="subscribe",
        variant="64 B",
        peer=peer,
        spec={},
        repetition=repetition,
        commit="abc",
        units=int(rate),
        seconds=1.0,
        client_cpu=0.5,
        server_cpu=0.25,
        client_peak=MIB,
        server_peak=2 * MIB,
        latency=None,
        extra={},
        checked="all",
    )


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = [made(1e6), made(2e6, 1)]
    write(tmp_path / "r.jsonl", {"cores": "2"}, results)
    assert read(tmp_path / "r.jsonl") == results


def test_a_regression_is_one_where_the_spans_are_apart(tmp_path: Path) -> None:
    write(tmp_path / "a", {}, [made(2.0e6), made(2.2e6, 1), made(2.1e6, 2)])
    write(tmp_path / "b", {}, [made(1.0e6), made(1.2e6, 1), made(1.1e6, 2)])
    write(tmp_path / "c", {}, [made(1.9e6), made(2.3e6, 1), made(2.0e6, 2)])
    assert re.search(r"rate .* 0\.52 WORSE", compare(tmp_path / "a", tmp_path / "b"))
    assert re.search(r"rate .* 1\.91 better", compare(tmp_path / "b", tmp_path / "a"))
    assert "WORSE" not in compare(tmp_path / "a", tmp_path / "c")


def test_the_report_has_medians_ratios_and_what_must_be_reached() -> None:
    results = [made(rate, i) for i, rate in enumerate((1e6, 3e6, 2e6))]
    results += [made(4e6, peer="raw")]
    text = markdown(results, {"cores": "2"}, {"sse": "needs uvicorn"})
    assert "| ackline | 2 M/s (1 M to 3 M) | 0.50 |" in text
    assert "- sse: needs uvicorn" in text
    met = {
        (t.peer, t.factor): value >= bound
        for t, _, value, bound in verdicts(rows(results))
    }
    assert met == {("", 2e6): True, ("raw", 1.0): False}
    assert "**no**" in text


def test_quantities_have_three_digits() -> None:
    assert quantity(1_234_567, "B/s") == "1.23 MB/s"
    assert quantity(0.5) == "0.5"


def test_latencies_are_ranked() -> None:
    latencies = Latencies()
    latencies.seconds = [n / 1_000 for n in range(1_000)]
    summary = latencies.summary()
    assert (summary.p50, summary.p99, summary.max) == (500.0, 990.0, 999.0)
    assert len(due_body(1.0, 64)) == 64


@pytest.mark.parametrize(
    "arguments",
    [
        ["upload", "nobody"],
        ["upload", "-n", "0"],
        ["upload", "--variant", "x"],
        ["compare", "a"],
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert main() == 2
    assert capsys.readouterr().err

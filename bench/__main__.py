"""`python -m bench WORKLOAD [PEER…]` and `python -m bench compare A.jsonl B.jsonl`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import msgspec

from bench.compare import compare
from bench.machine import describe
from bench.plots import plot, plot_scale
from bench.report import markdown, quantity
from bench.results import Result, write
from bench.runner import Contender, Failure, Runner, contenders
from bench.specs import Spec
from bench.workloads import HEADLINES, SCALE, VARIED, WORKLOADS

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, or compare; return the exit code."""
    if sys.argv[1:2] == ["compare"]:
        return _compare(sys.argv[2:])
    # `timeout` sends it: what runs is ended and what was made is removed all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _options()
    if options.repetitions < 1:
        print("--repetitions is at least 1", file=sys.stderr)
        return 2
    able, skipped = contenders(options.peers)
    for peer, reason in skipped.items():
        print(f"skipped {peer}: {reason}")
    if options.peers and not able:
        print("no such peer can be measured", file=sys.stderr)
        return 2
    specs = [
        spec for spec in _specs(options.workload) if options.variant in spec.variant
    ]
    if not specs:
        print(f"no variant has {options.variant!r} in its name", file=sys.stderr)
        return 2
    runner = Runner(options.disk)
    results: list[Result] = []
    broken = 0
    try:
        for spec in specs:
            broken += _measure(runner, able, spec, options.repetitions, results)
    finally:
        runner.close()
        if results:
            _save(options.workload, options.results, results, skipped)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ["headlines", "all", *WORKLOADS, *(f"scale-{name}" for name in SCALE)]
    parser.add_argument(
        "workload", choices=names, metavar="WORKLOAD", help=", ".join(names)
    )
    parser.add_argument("peers", nargs="*", metavar="PEER", help="default: all")
    parser.add_argument("-n", "--repetitions", type=int, default=5)
    parser.add_argument("--variant", default="", help="only variants with this in them")
    parser.add_argument(
        "--disk",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - not a tmpfs, as /tmp may be
        help="folder on the disk",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_intermixed_args()


def _specs(workload: str) -> list[Spec]:
    if workload == "headlines":
        return list(HEADLINES)
    if workload == "all":
        return [spec for specs in WORKLOADS.values() for spec in specs]
    if workload.startswith("scale-"):
        return list(SCALE[workload.removeprefix("scale-")])
    return list(WORKLOADS[workload])


def _measure(
    runner: Runner,
    able: list[Contender],
    spec: Spec,
    repetitions: int,
    results: list[Result],
) -> int:
    """Measure all peers in turn; return how many failed."""
    title = f"{type(spec).__name__.lower()}: {spec.variant}"
    broken: set[str] = set()
    for repetition in range(repetitions):
        for contender in able:
            if contender.name in broken or not contender.does(spec):
                continue
            try:
                result = runner.run(contender, spec, repetition)
            except Failure as failure:
                broken.add(contender.name)
                print(f"{title:44} {contender.name:16} FAILED\n{failure}", flush=True)
                continue
            results.append(result)
            print(f"{title:44} {contender.name:16} {_brief(result)}", flush=True)
    return len(broken)


def _brief(result: Result) -> str:
    parts: list[str] = []
    if result.units:
        parts.append(f"{quantity(result.rate)}/s in {result.seconds:.2f} s")
    if result.latency is not None:
        ms = result.latency
        parts.append(f"p50 {ms.p50:.2f} p99 {ms.p99:.2f} max {ms.max:.2f} ms")
    parts += [f"{name} {quantity(value)}" for name, value in result.extra.items()]
    return ", ".join(parts)


def _save(
    workload: str, folder: Path, results: list[Result], skipped: dict[str, str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe()
    stem = folder / f"{workload}-{time.strftime('%Y%m%dT%H%M%S')}"
    write(stem.with_suffix(".jsonl"), machine, results)
    text = markdown(results, machine, skipped)
    stem.with_suffix(".md").write_text(text)
    if workload.startswith("scale-"):
        plot_scale(results, VARIED[workload.removeprefix("scale-")], stem)
    else:
        plot(results, stem)
    print(f"\n{text}\nin {stem}.md, .jsonl and .svg")


def _compare(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m bench compare A.jsonl B.jsonl", file=sys.stderr)
        return 2
    try:
        print(compare(Path(arguments[0]), Path(arguments[1])))
    except (OSError, msgspec.DecodeError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

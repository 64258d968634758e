"""The fuzzer as a command. Exits with 1 if an invariant does not hold."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["ackline.proto"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import LONGEST, keep, kept
from tests.fuzz.seeds import seeds

MEMORY_MIB = 1024


def _play(target: str, arguments: list[str]) -> None:
    """Be the process that fuzzes; never returns."""
    play = TARGETS[target]

    def one(script: bytes) -> None:
        play(script)

    # libFuzzer starts itself again to merge, with a shell and this as its name.
    command = f"{sys.executable} -m tests.fuzz --play {target} --"
    atheris.Setup([command, *arguments], one)
    atheris.Fuzz()


def _run(target: str, *arguments: str) -> int:
    words = [sys.executable, "-m", "tests.fuzz", "--play", target, "--", *arguments]
    return subprocess.run(words, check=False).returncode


def _fuzz(target: str, seconds: int, seed: int, *, keeps: bool) -> int:
    """Fuzz one target, and keep the scripts that reach what no other one does."""
    with tempfile.TemporaryDirectory(prefix="ackline-fuzz-") as made:
        begun, found = Path(made, "begun"), Path(made, "found")
        crash = Path(made, "crash-")
        for folder in (begun, found):
            folder.mkdir()
        for number, script in enumerate([*seeds(target), *kept(target)]):
            (begun / f"{number}").write_bytes(script)
        code = _run(
            target,
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-seed={seed}",
            f"-artifact_prefix={crash}",
            "-timeout=10",
            "-use_value_profile=1" if keeps else "-use_value_profile=0",
            "-print_final_stats=1",
            "-verbosity=0",
            str(begun),
        )
        for broken in Path(made).glob("crash-*"):
            print(f"{target}: {broken.read_bytes().hex()}")
        if code == 0 and keeps:
            _run(target, "-merge=1", "-verbosity=0", str(found), str(begun))
            new = {each.read_bytes() for each in found.iterdir()} - set(seeds(target))
            keep(target, new)
            print(f"{target}: {len(kept(target))} scripts kept")
        return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--throw-away", action="store_true", help="keep no script")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    own, _, others = _split(sys.argv[1:])
    chosen = parser.parse_args(own)
    if chosen.play:
        _play(chosen.play, others)
    codes = [
        _fuzz(target, chosen.seconds, chosen.seed, keeps=not chosen.throw_away)
        for target in chosen.targets or TARGETS
    ]
    return 1 if any(codes) else 0


def _split(words: list[str]) -> tuple[list[str], str, list[str]]:
    if "--" not in words:
        return words, "", []
    at = words.index("--")
    return words[:at], "--", words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())

"""The soak where packets are really lost: in a network namespace with `tc netem`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.processes import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 10


def attempt(*command: str) -> str:
    """Run a command; return what went wrong, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"there is no {command[0]}"
    if not done.returncode:
        return ""
    return f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"


@pytest.fixture
def namespace() -> Iterator[str]:
    """Make a network of its own that loses, delays and reorders packets."""
    name = f"ackline-{os.getpid()}"
    within = ("ip", "netns", "exec", name)
    loss = ("loss", "2%", "delay", "5ms", "2ms", "reorder", "10%", "duplicate", "1%")
    fault = attempt("ip", "netns", "add", name)
    try:
        fault = fault or attempt(*within, "ip", "link", "set", "lo", "up")
        fault = fault or attempt(
            *within, "tc", "qdisc", "add", "dev", "lo", "root", "netem", *loss
        )
        if fault:
            pytest.skip(f"packets cannot be lost here: {fault}")
        yield name
    finally:
        attempt("ip", "netns", "del", name)


def test_the_account_comes_out_where_packets_are_lost(namespace: str) -> None:
    soak = [sys.executable, "-m", "tests.soak", f"--seconds={SECONDS}", "--seed=1"]
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *soak],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

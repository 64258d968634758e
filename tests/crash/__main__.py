"""`python -m tests.crash`: look for a fault until the time is over."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.crash.simulation import Simulation


def main() -> int:
    """Run the simulator; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description="Crash the embedded store at every kind of moment, and look whether"
        " it keeps its promises. The seed of what is found brings it again.",
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="where to begin (0)")
    parser.add_argument(
        "--density",
        type=float,
        default=0.05,
        help="part of the moments that are tried, 0 to 1; 1 for every one (0.05)",
    )
    arguments = parser.parse_args()
    seed, cases, end = arguments.seed, 0, time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        simulation = Simulation(seed, density=arguments.density)
        try:
            asyncio.run(simulation.run())
        except BaseException:
            print(f"seed {seed} found this:", file=sys.stderr)
            raise
        cases += simulation.checked
        seed += 1
    print(f"{cases:,} crashes of {seed - arguments.seed:,} runs: all promises kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The link as a command: `python -m tests.link`."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
from dataclasses import fields
from typing import TYPE_CHECKING

from tests.link.links import Link
from tests.link.options import CutMode, LinkOptions, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _size(text: str) -> int:
    """Parse a size in bytes, such as 300, 3MB or 1.5MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]I?B)?", text.upper())
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _setting(text: str) -> tuple[str, object]:
    """Parse `name=value`, where the name is one of an attribute of `Way`."""
    name, _, value = text.partition("=")
    if name in {"latency", "jitter"}:
        return name, float(value)
    if name in {"in_total", "flip_every"}:
        return name, value.lower() in {"", "1", "true", "yes"}
    if name in {"cut_at", "flip_at"}:
        return name, tuple(_size(part) for part in value.split(","))
    if name in {each.name for each in fields(Way)}:
        return name, _size(value)
    raise ValueError(f"{name!r} is not a setting of a direction")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(each.name for each in fields(Way))
    parser = argparse.ArgumentParser(
        prog="python -m tests.link",
        description="A TCP link that misbehaves on request.",
        epilog=f"Settings of a direction: {names}. Seconds, bytes (3MB, 64KiB), lists "
        "with commas. See the docstring of Way in tests/link/options.py.",
    )
    add = parser.add_argument
    add("--listen", type=_address, required=True, metavar="HOST:PORT")
    add("--to", type=_address, required=True, metavar="HOST:PORT")
    for name in ("--to-server", "--to-client", "--both"):
        add(name, type=_setting, nargs="+", action="extend", default=[], metavar="K=V")
    add("--cut-mode", type=CutMode, default=CutMode.RESET, help="reset or finish")
    add("--down-after-cut", type=float, default=0.0, metavar="SECONDS")
    add("--in-flight", type=_size, default=2**22, metavar="SIZE")
    add("--socket-buffer", type=_size, default=None, metavar="SIZE")
    add("--seed", type=int, default=0)
    return parser


def _way(*settings: tuple[str, object]) -> Way:
    values: dict[str, object] = dict(settings)
    return Way(**values)  # type: ignore[arg-type]


async def _run(arguments: argparse.Namespace) -> None:
    options = LinkOptions(
        to_server=_way(*arguments.both, *arguments.to_server),
        to_client=_way(*arguments.both, *arguments.to_client),
        cut_mode=arguments.cut_mode,
        down_after_cut=arguments.down_after_cut,
        in_flight=arguments.in_flight,
        socket_buffer=arguments.socket_buffer,
        seed=arguments.seed,
    )
    (host, port), (target_host, target_port) = arguments.listen, arguments.to
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Link(
        target_host=target_host,
        target_port=target_port,
        host=host,
        port=port,
        options=options,
    ) as link:
        print(f"listening on {link.host}:{link.port}", flush=True)
        await stopped.wait()
        print(link.counters, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a link until SIGINT or SIGTERM, then print its counters."""
    asyncio.run(_run(_parser().parse_args(arguments)))


if __name__ == "__main__":
    main()

"""Which files are memory, so that using them waits for no device."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

__all__ = ["in_memory", "memory_devices"]

_OF_MEMORY = frozenset({"tmpfs", "ramfs"})

_MOUNTS = Path("/proc/self/mountinfo")


def in_memory(file: Path | int) -> bool:
    """Tell whether a file, a folder or a descriptor is on a file system in memory.

    Raises:
        OSError: there is no such file.
    """
    return os.stat(file).st_dev in memory_devices()  # noqa: PTH116 - or a descriptor


@lru_cache(maxsize=1)
def memory_devices() -> frozenset[int]:
    """Return the devices of file systems in memory; only Linux tells."""
    try:
        mounts = _MOUNTS.read_text()
    except OSError:
        return frozenset()
    devices: set[int] = set()
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        if system.split(" ", 1)[0] in _OF_MEMORY:
            major, _, minor = mount.split(" ", 3)[2].partition(":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)

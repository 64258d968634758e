"""One seed: stores that are used, crash, and are opened again; and all else that a
crash might have left on the way.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ackline.server.maintenance.check import check
from ackline.server.stores.files import Files
from ackline.server.stores.storage import Storage, StorageOptions
from tests.crash.disk import Cut, Disk
from tests.crash.facts import Facts, Violation
from tests.crash.inspection import inspect
from tests.crash.operations import Faults
from tests.crash.stepping import stepping
from tests.crash.watching import WatchedDatabase, WatchedFiles
from tests.crash.workload import Workload
from tests.server.stores.support import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.disk import Image

__all__ = ["Case", "Simulation"]

#: Small enough for everything to happen in a short run.
_OPTIONS = StorageOptions(reserve=0, segment_size=2500, tail_budget=5000, publishers=10)

#: Times that one seed uses a store.
_PHASES = 3

#: Moments after an opening of which more are tried, and how many of them.
_EARLY = 15
_EARLY_DENSITY = 0.2

#: Operations each time.
_OPERATIONS = 40


@dataclass(slots=True)
class Case:
    """What a crash might have left, and what was known by then."""

    where: str
    cut: Cut
    image: Image
    facts: Facts


@dataclass(slots=True)
class Simulation:
    """A run of one seed.

    Attributes:
        seed: Which brings the same again.
        density: How many of the moments before a change are tried as a crash, 0 to 1.
        deaf: Says which syncs do nothing, see `Disk`: tests plant faults with it.
        cases: What is still to be checked.
        checked: How many were.
    """

    seed: int
    density: float = 0.05
    deaf: Callable[[str, str], bool] | None = None
    cases: list[Case] = field(default_factory=list)
    checked: int = 0

    async def run(self) -> None:
        """Use a store, let it crash, check every case.

        Raises:
            Violation: One does not keep to what clients were told.
        """
        rng = Random(self.seed)
        with (
            tempfile.TemporaryDirectory(prefix="ackline-crash-", dir=_shm()) as folder,
            stepping(rng),
        ):
            await self._live(Path(folder), rng)
            for number, case in enumerate(self.cases):
                await self._check(Path(folder) / f"case-{number}", case, rng)
                self.checked += 1

    async def _live(self, folder: Path, rng: Random) -> None:
        facts, clock = Facts(), Clock()
        disk = Disk(folder / "0", rng)
        disk.root.mkdir()
        for phase in range(_PHASES):
            faults = Faults(facts, rng)
            disk.fault = faults
            disk.deaf = self.deaf or disk.deaf
            disk.before = self._points(disk, facts, rng, f"phase {phase}")
            cut = await self._phase(disk, facts, faults, rng, clock)
            # What a crash leaves goes to a folder of its own: the killed process may
            # still have the old one open.
            image = disk.left(cut)
            root = folder / str(phase + 1)
            _materialize(image, root)
            if cut is Cut.KILLED:
                disk.root = root  # the page cache stays
            else:
                disk = Disk(root, rng, image)
                facts.lose_power()

    async def _phase(
        self, disk: Disk, facts: Facts, faults: Faults, rng: Random, clock: Clock
    ) -> Cut:
        """Open a store, compare it, use it; return how it ends."""
        files = WatchedFiles(disk)
        database = WatchedDatabase(disk, files)
        end = rng.choice(list(Cut))
        async with Storage.open(
            disk.root / "data",
            _OPTIONS,
            clock=clock,
            files=files,
            factory=database.connect,  # type: ignore[arg-type]
        ) as storage:
            observed = await inspect(
                storage, disk.root / "data", facts, killed=bool(facts.killed)
            )
            facts.settle(observed)
            facts.trims, facts.faulted, facts.opened = 0, False, True
            workload = Workload(storage, facts, faults, rng, clock)
            await workload.run(_OPERATIONS, faulty=rng.random() < 0.5)
            if rng.random() < 0.3:
                await workload.finish()
                await storage.close()
            faults.disarm()
            files.alive = False
            await workload.kill()
        database.close()
        facts.killed, facts.opened = end is Cut.KILLED, False
        return end

    def _points(
        self, disk: Disk, facts: Facts, rng: Random, where: str
    ) -> Callable[[], None]:
        """Return what is called before every change of the disk."""
        choose = Random(rng.getrandbits(64))
        # What was found after a crash is told before anything else is synced: there
        # more moments are tried.
        early = _EARLY

        def before() -> None:
            nonlocal early
            early -= facts.opened
            density = self.density if early < 0 else max(self.density, _EARLY_DENSITY)
            if choose.random() < density:
                cut = choose.choice(list(Cut))
                image = disk.left(cut)
                self.cases.append(Case(where, cut, image, facts.copy()))

        return before

    async def _check(self, folder: Path, case: Case, rng: Random) -> None:
        _materialize(case.image, folder)
        data = folder / "data"
        try:
            async with Storage.open(data, _OPTIONS, clock=Clock()) as storage:
                await inspect(storage, data, case.facts, killed=case.cut is Cut.KILLED)
            if rng.random() < 0.2:
                self._check_folder(data)
        except Exception as error:
            raise Violation(
                f"seed {self.seed}, case {self.checked} ({case.where}, {case.cut.name}"
                f"): {error!r}"
            ) from error

    def _check_folder(self, data: Path) -> None:
        """Let `ackline-server check` look at what was opened again."""
        report = check(data, Files(), lambda _: None)
        if found := [*report.damage, *report.leftovers]:
            raise Violation(f"ackline-server check finds {found[:3]}")


def _materialize(image: Image, folder: Path) -> None:
    folder.mkdir()
    for name in sorted(image):  # folders before what is in them
        content = image[name]
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def _shm() -> str | None:
    """Return a folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None

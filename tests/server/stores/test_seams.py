from __future__ import annotations

import inspect

import pytest

from ackline.server.stores import seams
from ackline.server.stores.chunks import FileChunks
from ackline.server.stores.deliveries import RecordDeliveries
from ackline.server.stores.eventlog import FileLog
from ackline.server.stores.logs import FileLogs
from ackline.server.stores.objects import FileObject
from ackline.server.stores.runs import RecordRuns
from ackline.server.stores.sessions import RecordSessions
from ackline.server.stores.uploads import FileUpload

PAIRS = [
    (seams.SessionStore, RecordSessions),
    (seams.RunStore, RecordRuns),
    (seams.ChunkStore, FileChunks),
    (seams.DeliveryStore, RecordDeliveries),
    (seams.Upload, FileUpload),
    (seams.Object, FileObject),
    (seams.LogStore, FileLogs),
    (seams.Log, FileLog),
]


@pytest.mark.parametrize(("seam", "embedded"), PAIRS)
def test_embedded_store_has_the_parameters_of_its_seam(
    seam: type, embedded: type
) -> None:
    """The type checkers compare types; this, names, defaults and what is async."""
    for name, member in vars(seam).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        implemented = getattr(embedded, name)
        assert inspect.signature(implemented).parameters == (
            inspect.signature(member).parameters
        )
        assert inspect.iscoroutinefunction(implemented) == (
            inspect.iscoroutinefunction(member)
        )


def test_every_seam_is_implemented() -> None:
    assert {seam.__name__ for seam, _ in PAIRS} == set(seams.__all__)

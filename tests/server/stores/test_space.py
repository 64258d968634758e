from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ackline.server.stores.errors import StorageFull
from ackline.server.stores.space import Space

if TYPE_CHECKING:
    from tests.server.stores.support import FaultyFiles


def test_reserve_and_claims_of_others_are_not_available(files: FaultyFiles) -> None:
    files.space = 1000
    space = Space(files, Path(), reserve=100)
    space.require(900)
    space.claim("a", 300)
    space.require(900, owner="a")
    space.require(600)
    with pytest.raises(StorageFull) as refused:
        space.require(601)
    assert (refused.value.needed, refused.value.available) == (601, 600)


def test_claim_shrinks_as_it_is_used_and_goes(files: FaultyFiles) -> None:
    files.space = 1000
    space = Space(files, Path(), reserve=0)
    space.claim("a", 300)
    space.consume("a", 200)
    space.consume("b", 200)
    space.require(900)
    space.consume("a", 200)
    assert space.claimed("a")
    space.require(1000)
    space.release("a")
    space.release("b")
    assert not space.claimed("a")

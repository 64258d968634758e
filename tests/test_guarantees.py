"""Every promise of docs/guarantees.md and docs/security.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
HEADS = re.compile(r"^\| promise \|.*\| shown by \|$")


def names(file: str) -> set[str]:
    """Return the tests of a file; a stateful one is assigned."""
    found: set[str] = set()
    for each in ast.parse((ROOT / file).read_text()).body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(each.name)
        elif isinstance(each, ast.Assign):
            found.update(t.id for t in each.targets if isinstance(t, ast.Name))
    return found


@pytest.mark.parametrize("document", ["guarantees.md", "security.md"])
def test_every_promise_names_tests_and_they_exist(document: str) -> None:
    text = (ROOT / "docs" / document).read_text()
    named = NAMED.findall(text)
    assert len(named) > 20
    for file, test in named:
        assert test in names(file), f"{file}::{test} is named and not there"
    promises = False
    for line in text.splitlines():
        if not line.startswith("|"):
            promises = False
        elif HEADS.match(line):
            promises = True
        elif promises and not line.startswith("|--"):
            assert NAMED.search(line.strip("|").split("|")[-1]), line

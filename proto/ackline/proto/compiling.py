"""What modules tell the compiler that makes the wheel, and only that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_attributes: bool) -> Callable[[type], type]:
        """Take what `mypyc_attr` says: nobody needs it when the program runs."""
        return lambda each: each


__all__ = ["mypyc_attr"]

"""How long objects are kept: by age and by total size, for each pattern of names.

What a rule covers goes oldest first, every version for itself. Two things keep an
object longer: a sink that has not taken it, and whoever is fetching it, who can read on
as after any DELETE (SPEC.md §19).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ackline.aio import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ackline.server.service import Service

__all__ = ["Rule", "expire_objects", "parse_rules"]

log = logging.getLogger(__name__)

PAGE = 1000
"""Objects looked at in one operation of the database, which others wait for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept of the objects of some names.

    Attributes:
        pattern: of the names; `*` and `?` as in a shell, `/` is ordinary.
        max_age: seconds after which an object goes, or None.
        max_size: bytes of all together above which the oldest go, or None.
    """

    pattern: str
    max_age: float | None
    max_size: int | None


def parse_rules(pairs: Iterable[tuple[str, str]]) -> tuple[Rule, ...]:
    """Return the rules of pairs such as `("tmp/*", "max-age=7d,max-size=10GiB")`.

    Raises:
        ValueError: one is none; the text says what one looks like.
    """
    return tuple(_rule(pattern, text) for pattern, text in pairs)


def _rule(pattern: str, text: str) -> Rule:
    age: float | None = None
    size: int | None = None
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name == "max-age" and age is None:
            age = parse_duration(value)
        elif name == "max-size" and size is None:
            size = parse_size(value)
        else:
            raise ValueError(
                f"{text!r} does not say what to keep of {pattern!r}: it is max-age=7d,"
                " max-size=10GiB, or both with a comma between"
            )
    return Rule(pattern, age, size)


async def expire_objects(service: Service) -> None:
    """Delete what the rules do not keep; the first rule that fits a name is its own.

    Raises:
        StoreError: the records cannot be read or changed.
    """
    rules = parse_rules(service.options.object_retention)
    if not rules:
        return
    clock, sizes = service.storage.clock, dict.fromkeys(rules, 0)
    too_old_before = {
        rule: -math.inf if rule.max_age is None else clock.before(rule.max_age)
        for rule in rules
    }
    # What counts for a size is everything.
    sized = any(rule.max_size is not None for rule in rules)
    before = (math.inf if sized else max(too_old_before.values()), "")
    while page := await service.chunks.kept(before=before, limit=PAGE):
        too_old: list[str] = []
        too_much: list[str] = []
        for each in page:
            rule = _rule_of(rules, each.name)
            if rule is None:
                continue
            sizes[rule] += each.size
            if each.waiting_sinks:
                continue
            if each.created < too_old_before[rule]:
                too_old.append(each.object_id)
            elif rule.max_size is not None and sizes[rule] > rule.max_size:
                too_much.append(each.object_id)
        await _delete(service, too_old, "age")
        await _delete(service, too_much, "size")
        before = (page[-1].created, page[-1].object_id)


def _rule_of(rules: Sequence[Rule], name: str) -> Rule | None:
    for rule in rules:
        if fnmatchcase(name, rule.pattern):
            return rule
    return None


async def _delete(service: Service, object_ids: list[str], reason: str) -> None:
    if object_ids:
        count = await service.chunks.discard(object_ids)
        service.counters.objects_expired[reason] += count
        log.info("%d objects are deleted because of their %s", count, reason)

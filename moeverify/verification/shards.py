"""Parts of a run's sources, for machines that do not communicate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moeverify.errors import UsageError
from moeverify.verification.case import Case


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """Every ``count``-th case from the ``number``-th on. Raises ``UsageError`` if there is none."""
        mine = list(cases[self.number - 1 :: self.count])
        if not mine:
            raise UsageError(f"shard {self} has no source: there are {len(cases)}; use at most as many shards")
        return mine


def parse_shard(text: str) -> Shard:
    """A shard written ``K/N``. Raises ``UsageError`` for anything else.

    >>> str(parse_shard("2/8"))
    '2/8'
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"a shard is written K/N with K from 1 to N, such as 2/8, not {text!r}")
    return Shard(int(match[1]), int(match[2]))

"""What the walks over a dependency graph came upon: their steps, cycles, overflows and stopped steps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from moeverify.pruning.graph.walk import Crossing, Expansion


@dataclass
class Account:
    """The sum over all groups so far; ``last_cycle`` is the last path that closed while one was built."""

    max_expansions: int
    expansions: int = 0
    cycles: int = 0
    overflowed: bool = False
    last_cycle: tuple[str, ...] = ()
    crossings: list[Crossing] = field(default_factory=list)

    def add(self, found: Expansion) -> None:
        """Add what a walk found; an overflow is warned of."""
        self.expansions += found.expansions
        self.cycles += found.cycles
        self.last_cycle = found.last_cycle or self.last_cycle
        self.crossings += [c for c in found.crossings if c not in self.crossings]
        if found.overflowed:
            self.overflowed = True
            warnings.warn(
                f"Dependency expansion overflow: a group needs more than max_expansions={self.max_expansions} steps; "
                "it was dropped",
                stacklevel=4,
            )

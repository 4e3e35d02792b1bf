"""Totals of the walks over a dependency graph: steps, cycles, overflows and steps that were stopped."""

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

    def add(self, expansion: Expansion) -> None:
        """Add what a walk found; an overflow is warned of."""
        self.expansions += expansion.expansions
        self.cycles += expansion.cycles
        self.last_cycle = expansion.last_cycle or self.last_cycle
        self.crossings += [c for c in expansion.crossings if c not in self.crossings]
        if expansion.overflowed:
            self.overflowed = True
            warnings.warn(
                f"Dependency expansion overflow: a group needs more than max_expansions={self.max_expansions} steps; "
                "it was dropped",
                stacklevel=4,
            )


class Accounted:
    """Shows the totals of ``account`` as attributes, as users of a graph read them."""

    account: Account

    @property
    def max_expansions(self) -> int:
        """The bound on the steps of one group."""
        return self.account.max_expansions

    @property
    def expansions(self) -> int:
        """The steps of all groups so far."""
        return self.account.expansions

    @expansions.setter
    def expansions(self, count: int) -> None:
        self.account.expansions = count

    @property
    def overflowed(self) -> bool:
        """Whether a group was dropped because it needed too many steps."""
        return self.account.overflowed

    @property
    def cycles(self) -> int:
        """Number of paths that closed while groups were built."""
        return self.account.cycles

    @property
    def last_cycle(self) -> tuple[str, ...]:
        """The last path that closed."""
        return self.account.last_cycle

    @property
    def crossings(self) -> list[Crossing]:
        """The steps that the expert boundary stopped."""
        return self.account.crossings

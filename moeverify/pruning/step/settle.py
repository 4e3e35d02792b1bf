"""The loop that decides which classes are cut: plan, find the classes that block the plan, drop them, plan again.

A judge tests whether counts can be carried out. There is one for models with a configuration, and one for models
without.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused
from moeverify.pruning.configuration import ConfigUpdate
from moeverify.pruning.constants.derived import DoesNotRun
from moeverify.pruning.plan.plan import Adjustment, Plan, Reason
from moeverify.pruning.step.leave_out import FOLLOWS, Counts, Fails, largest_that_works

Reasons = Mapping[PruningClass, Reason]


@dataclass(frozen=True, eq=False)
class Judgement:
    """Answer of a judge on counts, one of three.

    ``plan`` carries the counts out, with the ``update`` of the configuration if there is one. ``refused``: the counts
    cannot go together. ``blocking`` returns the classes that must stay, each with the reason; it may run forwards.
    """

    plan: Plan | None = None
    update: ConfigUpdate | None = None
    refused: PruningRefused | None = None
    blocking: Callable[[], Reasons] | None = None

    @property
    def trouble(self) -> Reason | None:
        """Reason why the counts cannot go together; ``None`` if they can."""
        if self.refused is None:
            return None
        return self.refused.reason if isinstance(self.refused, DoesNotRun) else Reason(str(self.refused))


class Judge(Protocol):
    """Tests whether a number of units per class can be carried out on one model."""

    def kind_of(self, pruning_class: PruningClass) -> Hashable:
        """Key that alike classes of different layers share."""

    def unfit(self, counts: Counts) -> Reasons:
        """Classes that cannot be cut together with any other choice, each with the reason."""

    def judge(self, counts: Counts) -> Judgement:
        """The plan for ``counts``, or the reasons against it."""

    def shared(self, counts: Counts, fails: Fails, named: frozenset[PruningClass]) -> Mapping[PruningClass, int] | None:
        """Other counts of a few classes that make all counts possible; ``None`` if there are none. ``named`` stay as
        they are.
        """


@dataclass(frozen=True, eq=False)
class Settlement:
    """A plan that can be carried out, and the update of the configuration (``None`` without one)."""

    plan: Plan
    update: ConfigUpdate | None = None


def settle(judge: Judge, wanted: Counts, named: frozenset[PruningClass]) -> Settlement:
    """The plan that removes as much of ``wanted`` as can go; its adjustments name the classes that are left alone.

    Raises ``PruningRefused`` if a class among ``named`` (asked for by name) cannot keep what was asked.
    """
    counts, left = dict(wanted), list[Adjustment]()
    known: dict[frozenset[tuple[PruningClass, int]], Judgement] = {}

    def judged(counts: Counts) -> Judgement:
        key = frozenset(counts.items())
        if key not in known:
            known[key] = judge.judge(counts)
        return known[key]

    def fails(counts: Counts) -> Reason | None:
        return judged(counts).trouble

    def drop(reasons: Reasons) -> None:
        for c, reason in reasons.items():
            left.append(Adjustment(c, counts.pop(c), c.coupling.size, reason))
            _insist(left[-1], named)

    drop(judge.unfit(counts))
    while True:
        judgement = judged(counts)
        if judgement.plan is not None:
            for adjustment in judgement.plan.adjustments:
                _insist(adjustment, named)
            return Settlement(
                replace(judgement.plan, adjustments=(*left, *judgement.plan.adjustments)), judgement.update
            )
        if judgement.blocking is not None:
            drop(judgement.blocking())
        elif (other := judge.shared(counts, fails, named)) is not None:
            why = judgement.trouble or Reason("")
            why = replace(why, text=f"{FOLLOWS} {why.text}")
            left += [Adjustment(c, counts[c], kept, why) for c, kept in other.items()]
            counts.update(other)
        elif judgement.refused is not None and not counts:
            raise judgement.refused
        else:
            _, reasons = largest_that_works(counts, fails, judge.kind_of, named)
            drop(reasons)


def _insist(adjustment: Adjustment, named: frozenset[PruningClass]) -> None:
    """Raise ``PruningRefused`` for a class that was asked for by name."""
    if adjustment.pruning_class in named:
        raise PruningRefused(str(adjustment))

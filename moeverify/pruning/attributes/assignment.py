"""Search for attributes that must change for a pruned model's forward to run and to divide views as before.

A trial counts the operations whose results have the expected shapes, up to the first that does not. A proposal is taken
where it leads farther. Several ways to the end are ambiguous unless one is part of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from moeverify.pruning.attributes.proposals import Proposal

_MOST_TRIALS = 400
_MOST_SENSITIVE = 8
_TOGETHER = 3


@dataclass(frozen=True)
class Reached:
    """Progress of a trial: to the end if ``done``, else the farther the greater ``reached`` is; ``sign`` is the trouble
    there.
    """

    reached: int
    done: bool
    sign: Any = None


Chosen = frozenset[Proposal]
Trial = Callable[[Chosen], Reached]


@dataclass(frozen=True)
class Assignment:
    """The proposals to carry out; ``None`` if none works. ``rivals``: two proposals that exclude each other."""

    chosen: tuple[Proposal, ...] | None
    rivals: tuple[Proposal, ...] = ()


def assign(trial: Trial, proposals: Sequence[Proposal]) -> Assignment:
    """The least set of proposals with which the forward runs as before.

    Proposals that merely divide a number of units are tried only if the others do not do.
    """
    near = [p for p in proposals if p.near]
    assignment = _Search(trial, near).run()
    if assignment.chosen is None and not assignment.rivals and len(near) < len(proposals):
        assignment = _Search(trial, proposals).run()
    return assignment


class _Search:
    def __init__(self, trial: Trial, proposals: Sequence[Proposal]) -> None:
        self._trial = trial
        self._proposals = proposals
        self._known: dict[Chosen, Reached] = {}
        self._visited: set[Chosen] = set()

    def run(self) -> Assignment:
        solutions: list[Chosen] = []
        for solution in self._solutions(frozenset()):
            if not any(other <= solution for other in solutions):
                solutions = [other for other in solutions if not solution <= other] + [solution]
        if not solutions:
            return Assignment(None)
        if len(solutions) > 1:
            rivals = (next(iter(solutions[0] - solutions[1])), next(iter(solutions[1] - solutions[0])))
            return Assignment(None, rivals)
        order = {proposal: number for number, proposal in enumerate(self._proposals)}
        return Assignment(tuple(sorted(solutions[0], key=order.__getitem__)))

    def _solutions(self, chosen: Chosen) -> Iterator[Chosen]:
        if chosen in self._visited:
            return
        self._visited.add(chosen)
        here = self._reached(chosen)
        if here is None or here.done:
            yield from [chosen] if here is not None else []
            return
        for farther in self._farther(chosen, here):
            yield from self._solutions(farther)

    def _farther(self, chosen: Chosen, here: Reached) -> list[Chosen]:
        """Sets that extend ``chosen`` by as few proposals as possible and with which the forward gets farther."""
        taken = {slot for proposal in chosen for slot in proposal.slots}
        free = [p for p in self._proposals if taken.isdisjoint(p.slots)]
        for count in range(1, _TOGETHER + 1):
            if count == 2:  # those that change nothing by themselves are not read here
                free = [p for p in free if self._reached(chosen | {p}) != here][:_MOST_SENSITIVE]
            more = [chosen | set(added) for added in combinations(free, count) if _compatible(added)]
            if result := [chosen for chosen in more if self._is_farther(chosen, here)]:
                return result
        return []

    def _is_farther(self, chosen: Chosen, here: Reached) -> bool:
        there = self._reached(chosen)
        return there is not None and (there.done or there.reached > here.reached)

    def _reached(self, chosen: Chosen) -> Reached | None:
        """The outcome of a trial; ``None`` once there were too many."""
        if chosen not in self._known:
            if len(self._known) >= _MOST_TRIALS:
                return None
            self._known[chosen] = self._trial(chosen)
        return self._known[chosen]


def _compatible(added: Sequence[Proposal]) -> bool:
    slots = [slot for proposal in added for slot in proposal.slots]
    return len(slots) == len(set(slots))

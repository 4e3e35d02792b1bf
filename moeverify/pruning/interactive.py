"""The cuts of a plan as groups, one by one: each is made when it is asked for, on the model as it is then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeverify.pruning.groups import Place, PruningGroup
from moeverify.pruning.history import remember_experts
from moeverify.pruning.plan import Cut, Plan
from moeverify.pruning.selection import root_member

if TYPE_CHECKING:
    from moeverify.pruning.graph import MoEDependencyGraph


def cut_groups(graph: MoEDependencyGraph, plan: Plan) -> Iterator[PruningGroup]:
    """A group for each cut of ``plan``, in order; pruning one renumbers what the next ones hold."""
    prepared = [_prepare(graph, cut) for cut in plan.cuts]
    for cut, original in zip(plan.cuts, prepared, strict=True):
        yield ExpertGroup(graph, cut) if cut.pruning_class.experts else graph.group_at(*original)


def _prepare(graph: MoEDependencyGraph, cut: Cut) -> tuple[Place, np.ndarray]:
    """Where a cut is rooted, and the original positions that go there."""
    member = root_member(graph, cut.pruning_class)
    place = (member.parameter, member.dim)
    return place, graph.live.original(place, cut.as_first(member))


class ExpertGroup(PruningGroup):
    """The cut of experts in common parameters that each keep channels of their own.

    Its items show what the first expert loses; ``prune`` gives every expert its own cut.
    """

    def __init__(self, graph: MoEDependencyGraph, cut: Cut) -> None:
        super().__init__(graph)
        gone = np.setdiff1d(np.arange(cut.before), cut.kept[0])
        shown = graph.group_of(cut.pruning_class, gone.tolist())
        for item in shown.items:
            self.add(item)
        self.expansions = shown.expansions
        self._cut = cut

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Cut every expert; with ``idxs`` the same channels of each."""
        if idxs is not None:
            super().prune(idxs, record_history)
            return
        if record_history:
            remember_experts(self._DG, self._cut)
        self._DG.cut_experts(self._cut)

"""Interactive steps: the cuts of a plan as Torch-Pruning groups, each made when it is requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.groups import PruningGroup
from moeverify.pruning.graph.history import remember_experts
from moeverify.pruning.graph.live import Place
from moeverify.pruning.graph.roots import root_member
from moeverify.pruning.plan.plan import Cut, Plan


class Listed:
    """Calls ``finish`` once all groups of a step have been pruned.

    Groups requested one by one: after the last one was requested. Groups collected first: when the last one is pruned.
    """

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish
        self._count = self._pruned = 0
        self._waits = False

    def each(self, groups: Iterable[PruningGroup]) -> Iterator[PruningGroup]:
        """The groups, one by one."""
        for group in groups:
            self._count += 1
            group.on_pruned = self._note
            yield group
        self._waits = not self._pruned
        if not self._waits:
            self._finish()

    def _note(self, group: PruningGroup) -> None:
        group.on_pruned = None  # pruned twice, it counts once
        self._pruned += 1
        if self._waits and self._pruned == self._count:
            self._waits = False
            self._finish()


def cut_groups(graph: MoEDependencyGraph, plan: Plan) -> Iterator[PruningGroup]:
    """A group for each cut of ``plan``, in order; pruning one renumbers what the next ones hold."""
    prepared = [_prepare(graph, cut) for cut in plan.cuts]
    for cut, original in zip(plan.cuts, prepared, strict=True):
        yield ExpertGroup(graph, cut) if cut.pruning_class.experts else graph.group_at(*original)


def _prepare(graph: MoEDependencyGraph, cut: Cut) -> tuple[Place, np.ndarray]:
    """Root of a cut, and the original positions that go there."""
    member = root_member(graph.nodes, cut.pruning_class)
    place = (member.parameter, member.dim)
    return place, graph.live.original(place, cut.as_first(member))


class ExpertGroup(PruningGroup):
    """The group of a cut in which each fused expert keeps its own channels.

    Its items show what the first expert loses; ``prune`` cuts every expert.
    """

    def __init__(self, graph: MoEDependencyGraph, cut: Cut) -> None:
        super().__init__(graph.traced, graph)
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
            remember_experts(self._traced, self._cut)
        self._traced.cut_experts(self._cut)
        if self.on_pruned is not None:
            self.on_pruned(self)

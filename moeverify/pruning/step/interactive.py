"""Interactive steps: the cuts of a plan as Torch-Pruning groups, each made when it is requested."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence

import numpy as np
from torch import nn

from moeverify.models.forward import Example
from moeverify.pruning.attributes.change import set_attributes
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.groups import PruningGroup
from moeverify.pruning.graph.history import remember_experts
from moeverify.pruning.graph.live import Place
from moeverify.pruning.graph.roots import root_member
from moeverify.pruning.plan.plan import Cut, Plan
from moeverify.pruning.step.afterwards import catch_up
from moeverify.pruning.step.carry_out import bring_in_step
from moeverify.pruning.step.heads import (
    counts_now,
    head_counts_after,
    note_head_counts,
    output_sizes,
    write_head_counts,
)
from moeverify.pruning.step.prepare import Prepared


class Listed:
    """Counts the groups of a step, and calls ``finish`` once all of them were pruned.

    If a user prunes groups while iterating, that is after the last iteration. If a user collects them first, it is when
    the last one is pruned.
    """

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish
        self._count = self._pruned = 0
        self._waits = False

    def each(self, groups: Iterable[PruningGroup]) -> Iterator[PruningGroup]:
        """Yield ``groups`` one by one."""
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


def planned_groups(
    graph: MoEDependencyGraph,
    prepared: Prepared,
    example: Example,
    num_heads: MutableMapping[nn.Module, int],
    on_planned: Callable[[Plan], None],
) -> Iterator[PruningGroup]:
    """Iterate over the groups of a prepared step; configuration and attributes follow once all groups were pruned.

    ``on_planned`` is called if all were pruned as planned. ``num_heads`` is updated in place.
    """
    model, plan = graph.model, prepared.plan
    heads = head_counts_after(num_heads, plan, graph)
    sizes = output_sizes(num_heads, graph)
    planned = {place: kept.shape[-1] for place, kept in plan.keep.items()}

    def finish() -> None:
        if all(graph.live.size(place) == size for place, size in planned.items()):
            set_attributes(model, plan.attributes)
            bring_in_step(model, plan.folds, prepared.update)
            note_head_counts(num_heads, model, heads)
            on_planned(plan)
        elif prepared.probe is not None:
            catch_up(model, prepared.probe, example, graph.found_roles)
        else:
            if stale := plan.attributes:
                warnings.warn(
                    f"the groups were not pruned as planned: set {', '.join(map(str, stale))} by hand, or use "
                    "step() without `interactive`",
                    stacklevel=2,
                )
            now = counts_now(num_heads, sizes, graph)
            write_head_counts(model, now)
            note_head_counts(num_heads, model, now)

    return Listed(finish).each(cut_groups(graph, plan))


def cut_groups(graph: MoEDependencyGraph, plan: Plan) -> Iterator[PruningGroup]:
    """One group for each cut of ``plan``, in order; pruning one renumbers the positions of the next ones."""
    prepared = [_prepare(graph, cut) for cut in plan.cuts]
    for cut, original in zip(plan.cuts, prepared, strict=True):
        yield ExpertGroup(graph, cut) if cut.pruning_class.experts else graph.group_at(*original)


def _prepare(graph: MoEDependencyGraph, cut: Cut) -> tuple[Place, np.ndarray]:
    """Root axis of a cut, and the original positions that it removes there."""
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

"""The pruning history: roots and positions in the order they were cut, to be cut again on another copy.

Entries are Torch-Pruning's ``[layer, is output, positions]``. A parameter outside of a layer is written ``path@axis``;
positions are a list of lists where each fused expert lost channels of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeverify.errors import UsageError
from moeverify.pruning.groups import Place
from moeverify.pruning.plan import Cut, Plan
from moeverify.pruning.selection import root_member

if TYPE_CHECKING:
    from moeverify.pruning.graph import MoEDependencyGraph


def follow_plan(graph: MoEDependencyGraph, plan: Plan) -> None:
    """Renumber the graph's positions and add to its history, cut by cut, after ``plan`` was applied as a whole."""
    prepared = [(cut, _gone(graph, cut)) for cut in plan.cuts]
    for cut, gone in prepared:
        member = root_member(graph, cut.pruning_class)
        place = (member.parameter, member.dim)
        end = graph.nodes.end_of_place(place)
        if cut.pruning_class.experts:
            keep: dict[Place, np.ndarray] = {p: plan.keep[p] for p in gone}
            remember_experts(graph, keep)
        else:
            present = {p: graph.live.present(p, original)[0] for p, original in gone.items()}
            graph.remember(*graph.nodes.entry(end.node, end.function), present[place].tolist())
            keep = {p: np.setdiff1d(np.arange(graph.live.size(p)), positions) for p, positions in present.items()}
        graph.live.cut(keep)


def _gone(graph: MoEDependencyGraph, cut: Cut) -> dict[Place, np.ndarray]:
    """Original positions that a cut removes (the first expert's, if each loses its own)."""
    units = np.setdiff1d(np.arange(cut.before), cut.kept if cut.kept.ndim == 1 else cut.kept[0])
    found = {}
    for member in cut.pruning_class.coupling.members:
        place = (member.parameter, member.dim)
        found[place] = graph.live.original(place, np.sort(member.positions[units].ravel()))
    return found


def remember_experts(graph: MoEDependencyGraph, keep: Mapping[Place, np.ndarray]) -> None:
    """Add the cut of fused experts to the history: what each lost along one dimension, before it is renumbered."""
    name, axis = min(keep, key=lambda place: graph.live.size(place))
    everything = np.arange(graph.live.size((name, axis)))
    lost = [np.setdiff1d(everything, row).tolist() for row in keep[name, axis]]
    graph.remember(f"{name}@{axis}", True, lost)


def replay(graph: MoEDependencyGraph, history: Sequence[Sequence[Any]]) -> None:
    """Cut what ``history`` lists, in its order. Raises ``UsageError`` for an entry that the model does not have."""
    for name, is_output, indices in history:
        end = graph.nodes.end_of_name(name, is_output)
        if indices and isinstance(indices[0], list):
            graph.keep(_experts_keep(graph, end.place, indices))
        else:
            graph.get_pruning_group(end.node.module, end.function, indices, place=end.place).prune(record_history=False)


def _experts_keep(graph: MoEDependencyGraph, place: Place, lost: Sequence[Sequence[int]]) -> dict[Place, np.ndarray]:
    for pruning_class in graph.classes:
        for member in pruning_class.coupling.members:
            if (member.parameter, member.dim) == place and pruning_class.experts == len(lost):
                gone = [np.isin(member.positions, row).any(axis=1) for row in lost]
                units = [np.flatnonzero(~mask) for mask in gone]
                return {
                    (m.parameter, m.dim): np.stack([np.sort(m.positions[row].ravel()) for row in units])
                    for m in pruning_class.coupling.members
                }
    raise UsageError(f"the history cuts experts along {place[0]} dimension {place[1]}, which this model cannot")

"""The pruning history: roots and positions in the order they were cut, to be cut again on another copy.

Entries are Torch-Pruning's ``[layer, is output, positions]``. A parameter outside of a layer is written ``path@axis``;
positions are a list of lists where each expert of a common parameter lost channels of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeverify.errors import UsageError
from moeverify.pruning.graph.groups import Place
from moeverify.pruning.graph.roots import root_member
from moeverify.pruning.plan.plan import Cut, Plan

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph
    from moeverify.pruning.graph.nodes import End


def follow_plan(graph: MoEDependencyGraph, plan: Plan) -> None:
    """Renumber the graph's positions and add to its history, cut by cut, after ``plan`` was applied as a whole."""
    prepared = [(cut, _gone(graph, cut)) for cut in plan.cuts]
    for cut, gone in prepared:
        member = root_member(graph, cut.pruning_class)
        place = (member.parameter, member.dim)
        end = graph.nodes.end_of_place(place)
        present = {p: graph.live.present(p, original)[0] for p, original in gone.items()}
        if cut.pruning_class.experts:
            remember_experts(graph, cut)
        else:
            graph.remember(*graph.nodes.entry(end.node, end.function), present[place].tolist())
        graph.live.cut({p: np.setdiff1d(np.arange(graph.live.size(p)), positions) for p, positions in present.items()})


def _gone(graph: MoEDependencyGraph, cut: Cut) -> dict[Place, np.ndarray]:
    """Original positions that a cut removes (what the first expert loses for all, if each loses its own)."""
    members = cut.pruning_class.coupling.members
    return {place: graph.live.original(place, cut.as_first(m)) for m in members for place in [(m.parameter, m.dim)]}


def remember_experts(graph: MoEDependencyGraph, cut: Cut) -> None:
    """Add a cut of experts to the history: what each lost along one dimension, before it is renumbered."""
    members = cut.pruning_class.coupling.members
    member = min(members, key=lambda m: graph.live.size((m.parameter, m.dim)))
    lost = [cut.lost(member, expert).tolist() for expert in range(cut.pruning_class.experts)]
    graph.remember(f"{member.parameter}@{member.dim}", True, lost)


def replay(graph: MoEDependencyGraph, history: Sequence[Sequence[Any]]) -> None:
    """Cut what ``history`` lists, in its order.

    Raises ``UsageError``, before anything is changed, for a layer or parameter that the model does not have.
    """
    ends = [_end(graph, name, is_output) for name, is_output, _ in history]
    for end, (_, _, indices) in zip(ends, history, strict=True):
        if indices and isinstance(indices[0], list):
            graph.cut_experts(_experts_cut(graph, end.place, indices))
        else:
            graph.get_pruning_group(end.node.module, end.function, indices, place=end.place).prune(record_history=False)


def _end(graph: MoEDependencyGraph, name: str, is_output: bool) -> End:
    try:
        return graph.nodes.end_of_name(name, is_output)
    except KeyError:
        raise UsageError(
            f"the history prunes {name!r}, which this model does not have; load it into a model of the class and the "
            "sizes that it was made with"
        ) from None


def _experts_cut(graph: MoEDependencyGraph, place: Place, lost: Sequence[Sequence[int]]) -> Cut:
    for pruning_class in graph.classes:
        for member in pruning_class.coupling.members:
            if (member.parameter, member.dim) == place and pruning_class.experts == len(lost):
                mine = [pruning_class.of_expert(member, expert) for expert in range(len(lost))]
                gone = [np.isin(positions, row).any(axis=1) for positions, row in zip(mine, lost, strict=True)]
                return Cut(pruning_class, np.stack([np.flatnonzero(~mask) for mask in gone]))
    raise UsageError(f"the history cuts experts along {place[0]} dimension {place[1]}, which this model cannot")

"""The pruning history: roots and positions in the order they were cut, to be cut again on another copy.

Entries are Torch-Pruning's ``[layer, is output, positions]``. A parameter outside of a layer is written ``path@axis``.
Positions are a list of lists where each fused expert lost its own channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from moeverify.coupling.classify import PruningClass
from moeverify.errors import UsageError
from moeverify.pruning.graph.live import Place
from moeverify.pruning.graph.nodes import End, Nodes
from moeverify.pruning.graph.roots import root_member
from moeverify.pruning.graph.traced import TracedModel
from moeverify.pruning.plan.plan import Cut, Plan


def follow_plan(traced: TracedModel, plan: Plan) -> None:
    """Renumber positions and add to the history, cut by cut, after ``plan`` was applied as a whole."""
    prepared = [(cut, _gone(traced, cut)) for cut in plan.cuts]
    for cut, gone in prepared:
        member = root_member(traced.nodes, cut.pruning_class)
        place = (member.parameter, member.dim)
        end = traced.nodes.end_of_place(place)
        present = {p: traced.live.present(p, original)[0] for p, original in gone.items()}
        if cut.pruning_class.experts:
            remember_experts(traced, cut)
        else:
            traced.remember(*traced.nodes.entry(end.node, end.function), present[place].tolist())
        traced.live.cut(
            {p: np.setdiff1d(np.arange(traced.live.size(p)), positions) for p, positions in present.items()}
        )


def _gone(traced: TracedModel, cut: Cut) -> dict[Place, np.ndarray]:
    """Original positions that a cut removes (what the first expert loses for all, if each loses its own)."""
    members = cut.pruning_class.coupling.members
    return {place: traced.live.original(place, cut.as_first(m)) for m in members for place in [(m.parameter, m.dim)]}


def remember_experts(traced: TracedModel, cut: Cut) -> None:
    """Add a cut of experts to the history: what each lost along one dimension, before it is renumbered."""
    members = cut.pruning_class.coupling.members
    member = min(members, key=lambda m: traced.live.size((m.parameter, m.dim)))
    lost = [cut.lost(member, expert).tolist() for expert in range(cut.pruning_class.experts)]
    traced.remember(f"{member.parameter}@{member.dim}", True, lost)


def end_of(nodes: Nodes, name: str, is_output: bool) -> End:
    """The end that an entry names. Raises ``UsageError`` for a layer or parameter that the model does not have."""
    try:
        return nodes.end_of_name(name, is_output)
    except KeyError:
        raise UsageError(
            f"the history prunes {name!r}, which this model does not have; load it into a model of the class and the "
            "sizes that it was made with"
        ) from None


def experts_cut(classes: Iterable[PruningClass], place: Place, lost: Sequence[Sequence[int]]) -> Cut:
    """The cut of an entry of experts: what each lost along ``place``. Raises ``UsageError`` if no class has it."""
    for pruning_class in classes:
        for member in pruning_class.coupling.members:
            if (member.parameter, member.dim) == place and pruning_class.experts == len(lost):
                mine = [pruning_class.of_expert(member, expert) for expert in range(len(lost))]
                gone = [np.isin(positions, row).any(axis=1) for positions, row in zip(mine, lost, strict=True)]
                return Cut(pruning_class, np.stack([np.flatnonzero(~mask) for mask in gone]))
    raise UsageError(f"the history cuts experts along {place[0]} dimension {place[1]}, which this model cannot")

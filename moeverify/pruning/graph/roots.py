"""Roots: classes that may be cut, the layer each is cut from, and classes that are alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import Member
from moeverify.errors import BoundaryRefused
from moeverify.pruning.graph.live import LiveIndex, Place
from moeverify.pruning.graph.nodes import End, Nodes


def root_member(nodes: Nodes, pruning_class: PruningClass) -> Member:
    """The member that a group starts from: an output of a linear or convolutional layer, else the first that fits."""
    ends = list(nodes.ends(pruning_class.coupling))
    for wanted in ((nn.Linear, nn.modules.conv._ConvNd), (nn.Module,), (nn.Parameter,)):
        for member, end in ends:
            if end.output and isinstance(end.node.module, wanted):
                return member
    return ends[0][0]


def root_of(
    nodes: Nodes, live: LiveIndex, pruning_class: PruningClass, units: Sequence[int] | None = None
) -> tuple[End, np.ndarray, np.ndarray]:
    """Start of the group that removes ``units`` of a class (all if not given).

    Returns a layer's side, its positions as the trace numbers them, and the unit of each. Raises ``BoundaryRefused``
    for a class whose experts only go together.
    """
    if pruning_class.joint:
        raise BoundaryRefused(f"one expert's would take the others' along: {pruning_class.joint}")
    member = root_member(nodes, pruning_class)
    place = (member.parameter, member.dim)
    rows = member.positions if units is None else member.positions[list(units)]
    numbers = np.arange(len(member.positions)) if units is None else np.array(list(units), dtype=np.int64)
    return nodes.end_of_place(place), live.original(place, rows.ravel()), np.repeat(numbers, rows.shape[1])


def has_root(nodes: Nodes, pruning_class: PruningClass, types: Sequence[Any]) -> bool:
    """Whether a class cuts the outputs of a layer of one of these types.

    A matrix outside of torch's layers, such as fused experts, counts as a linear layer. So does an embedding, which is
    a linear layer on one-hot vectors. Example: only a table of n-grams outputs its channels.
    """
    for _, end in nodes.ends(pruning_class.coupling):
        target = end.node.module
        if isinstance(target, tuple(types)) and end.output:
            return True
        loose = isinstance(target, nn.Parameter) and target.dim() > 1
        table = isinstance(target, nn.Embedding) and end.output
        if (loose or table) and nn.Linear in types:
            return True
    return False


def is_ignored(
    nodes: Nodes, pruning_class: PruningClass, layers: set[nn.Module], parameters: Collection[nn.Parameter]
) -> bool:
    """Whether a class cuts the outputs of one of ``layers``, or one of ``parameters``."""
    names = {nodes.name_of(p) for p in parameters}
    for member, end in nodes.ends(pruning_class.coupling):
        if member.parameter in names:
            return True
        cuts_outputs = end.output or not isinstance(end.node.module, nn.Module)
        if layers and cuts_outputs and nodes.owner(member.parameter) in layers:
            return True
        tied = nodes.aliases((member.parameter, member.dim)) if layers else ()
        if any(other.output and other.node.module in layers for other in tied):
            return True
    return False


def layer_roots(
    nodes: Nodes, classes: Iterable[PruningClass], *, types: Sequence[Any], ignored: Callable[[PruningClass], bool]
) -> dict[Place, np.ndarray]:
    """Roots of groups as Torch-Pruning counts them: by layer, whose outputs may be of several classes."""
    roots: dict[Place, list[np.ndarray]] = {}
    for pruning_class in classes:
        if pruning_class.joint or not has_root(nodes, pruning_class, types) or ignored(pruning_class):
            continue
        member = root_member(nodes, pruning_class)
        roots.setdefault((member.parameter, member.dim), []).append(member.positions.ravel())
    return {place: np.sort(np.concatenate(parts)) for place, parts in roots.items()}


def signature(pruning_class: PruningClass) -> tuple:
    """Key of a class that stays the same when the class is cut."""
    return tuple((m.parameter, m.dim, m.positions.shape[1]) for m in pruning_class.coupling.members)


def structure(nodes: Nodes, pruning_class: PruningClass) -> tuple:
    """Key that alike classes of different layers share: kinds of layers, sides, positions per unit."""
    parts = [
        (type(end.node.module).__name__, end.output, member.dim, member.positions.shape[1])
        for member, end in nodes.ends(pruning_class.coupling)
    ]
    return pruning_class.role, tuple(sorted(parts))

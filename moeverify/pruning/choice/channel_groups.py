"""Channels that must go alike in every one of several groups, as Torch-Pruning's ``out_channel_groups`` asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import CouplingClass
from moeverify.errors import PruningRefused

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


def group_channels(
    pruning_class: PruningClass,
    graph: MoEDependencyGraph,
    inputs: Mapping[nn.Module, int],
    outputs: Mapping[nn.Module, int],
) -> PruningClass:
    """The class with unit ``u`` of each of ``n`` channel groups joined to one unit, if one of its layers asks for it.

    Classes whose units already take a position of every group are left as they are. Raises ``PruningRefused`` if the
    groups do not divide the class.
    """
    count = 1
    for member, end in graph.nodes.ends(pruning_class.coupling):
        wanted = (outputs if end.output else inputs).get(end.node.module, 1)
        if wanted > 1 and member.positions.shape[1] % wanted:
            count = max(count, wanted)
    if count == 1:
        return pruning_class
    size = pruning_class.coupling.size
    if size % count:
        raise PruningRefused(f"{count} channel groups do not divide the {size} units of {pruning_class.name}")
    members = tuple(
        replace(m, positions=m.positions.reshape(count, size // count, -1).swapaxes(0, 1).reshape(size // count, -1))
        for m in pruning_class.coupling.members
    )
    return replace(pruning_class, coupling=CouplingClass(members))


def mean_of_groups(scores: torch.Tensor, grouped: PruningClass) -> torch.Tensor:
    """Scores of a class from those of its single channels: each unit's mean over the channel groups."""
    return scores.unflatten(-1, (-1, grouped.coupling.size)).mean(-2)

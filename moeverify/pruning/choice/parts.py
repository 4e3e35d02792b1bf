"""The layers and parameters that hold the channels of a class.

Torch-Pruning's importances read layers. They get the model's own ones. A stack, or a parameter outside of a layer, is
presented as linear layers that share its memory. Example: an expert's slice of a fused tensor is that expert's layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency, Node

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import Member
from moeverify.pruning.graph.groups import repeated

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


@dataclass(frozen=True, eq=False)
class Part:
    """A layer that takes part in a class, and the positions ``[units, positions per unit]`` that each unit has."""

    layer: nn.Module
    handler: Callable
    positions: np.ndarray
    repeats: int = 1
    span: int = 0

    def item(self, columns: np.ndarray) -> _helpers.GroupItem:
        """A group item of some of the columns; indices ascend, as Torch-Pruning's importances sort them."""
        indices, units = ascending(columns)
        node = Node(self.layer, None, type(self.layer).__name__)
        idxs, roots = indices.tolist(), units.tolist()
        if self.span:
            idxs, roots = repeated(indices, units, self.repeats, self.span)
        item = _helpers.GroupItem(Dependency(self.handler, self.handler, node, node), idxs)
        item.root_idxs = roots
        return item


def ascending(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``[units, n]`` in ascending order, and the unit of each."""
    indices = columns.ravel()
    order = np.argsort(indices, kind="stable")
    return indices[order], np.repeat(np.arange(len(columns)), columns.shape[1])[order]


@dataclass(frozen=True, eq=False)
class Source:
    """Matrices of one shape whose channels a class holds: a layer's weight, a parameter, or the slices of a stack.

    ``positions`` are ``[experts, units, positions per unit]``, with one expert where all have the same. ``slices`` is
    the number of matrices that a stack counts as, 0 for a parameter or layer that is taken as a whole. ``layer`` and
    ``handler`` are set for a layer, ``parameter`` for what lies outside of layers. ``dim`` is the parameter's dimension
    that is cut.
    """

    positions: np.ndarray
    layer: nn.Module | None = None
    handler: Callable = tp.prune_linear_out_channels
    repeats: int = 1
    span: int = 0
    parameter: nn.Parameter | None = None
    dim: int = 0
    slices: int = 0
    each: bool = False

    @property
    def device(self) -> torch.device | None:
        """Device of the values; ``None`` for a layer without a weight."""
        weight = self.parameter if self.layer is None else getattr(self.layer, "weight", None)
        return weight.device if isinstance(weight, torch.Tensor) else None

    @property
    def in_memory(self) -> bool:
        """Whether it is a layer whose weight needs no reading from a file."""
        weight = getattr(self.layer, "weight", None)
        return isinstance(weight, torch.Tensor) and type(weight.detach()) is torch.Tensor

    @property
    def is_vector(self) -> bool:
        """Whether a channel is a single number, as in a bias or the weight of a norm outside of torch's layers."""
        if self.parameter is None:
            return False
        return self.parameter.numel() == self.parameter.shape[self.dim] * max(self.slices, 1)

    def parts(self, expert: int) -> list[Part]:
        """The layers that an importance is shown for one expert."""
        positions = self.positions[expert % len(self.positions)]
        if self.layer is not None:
            return [Part(self.layer, self.handler, positions, self.repeats, self.span)]
        assert self.parameter is not None
        numbers: list[int | None] = [None]
        if self.slices:
            numbers = [expert] if self.each else list(range(self.slices))
        views = [_view(self.parameter, self.dim, number) for number in numbers]
        return [Part(view, tp.prune_linear_out_channels, positions) for view in views]


def sources_of(graph: MoEDependencyGraph, pruning_class: PruningClass) -> list[Source]:
    """Sources of a class's channels, each side of a layer once.

    Loose norm weights and biases, and experts of which a single hidden channel is left, count only where there is
    nothing else.
    """
    result: dict[tuple, Source] = {}
    stacks = graph.found_roles.experts_in_stack
    for member, end in graph.nodes.ends(pruning_class.coupling):
        target = end.node.module
        if end.key in result:
            continue
        positions, in_turn = member.positions[None], (member.parameter, member.dim) in pruning_class.in_turn
        if in_turn:
            positions = np.stack([pruning_class.of_expert(member, e) for e in range(pruning_class.experts)])
        if isinstance(target, nn.Parameter):
            each = bool(pruning_class.experts) and not in_turn
            slices = pruning_class.experts if each else _slices(target, member, stacks)
            result[end.key] = Source(positions, parameter=target, dim=member.dim, slices=slices, each=each)
        else:
            result[end.key] = Source(positions, target, end.function, end.repeats, end.span)
    matrices = [source for source in result.values() if not source.is_vector]
    return matrices or list(result.values())


def _slices(parameter: nn.Parameter, member: Member, stacks: dict[str, int]) -> int:
    """Number of experts in a stack whose slices are presented as layers; 0 for a parameter presented as a whole."""
    count = stacks.get(member.parameter, 0)
    return count if count == parameter.shape[0] and member.dim > 0 else 0


def _view(parameter: nn.Parameter, dim: int, expert: int | None) -> nn.Linear:
    """A parameter, or one expert's slice of it, as a linear layer whose outputs are the positions along ``dim``."""
    values, gradient = parameter.detach(), parameter.grad
    if expert is not None:
        values, gradient, dim = values[expert], None if gradient is None else gradient[expert], dim - 1
    return as_linear(values, gradient, dim)


def as_linear(values: torch.Tensor, gradient: torch.Tensor | None, dim: int) -> nn.Linear:
    """A linear layer whose output channels are the positions of ``values`` along ``dim``.

    Its weight shares the memory of ``values`` and keeps their other dimensions: importances flatten what they take.
    A class of hidden channels shows every weight of the model at once, so a copy of each would be one too many.
    """
    turned = _rows(values, dim)
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(turned, requires_grad=False)
    layer.out_features, layer.in_features = turned.shape[0], turned[0].numel()
    if gradient is not None:
        layer.weight.requires_grad_()
        layer.weight.grad = _rows(gradient, dim)
    return layer


def _rows(values: torch.Tensor, dim: int) -> torch.Tensor:
    """``values`` with ``dim`` first, and a second dimension also of a vector."""
    turned = values.movedim(dim, 0)
    return turned[:, None] if turned.dim() == 1 else turned

"""Scores of units by any Torch-Pruning importance, on listed and on fused experts.

Torch-Pruning's importances read ``nn.Linear`` layers. A stacked or otherwise shaped parameter is shown to them as
linear layers that share its memory: an expert's slice of a fused tensor is that expert's layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency, Group, Node

from moeverify.errors import PruningRefused
from moeverify.pruning.classes import PruningClass

# A unit of more positions than this (a head) is scored position by position and averaged.
_FEW_POSITIONS = 4


def _as_linear(values: torch.Tensor, gradient: torch.Tensor | None, dim: int) -> nn.Linear:
    """A linear layer whose output channels are the positions of ``values`` along ``dim``."""
    matrix = values.movedim(dim, 0).reshape(values.shape[dim], -1)
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(matrix, requires_grad=False)
    layer.out_features, layer.in_features = matrix.shape
    if gradient is not None:
        layer.weight.requires_grad_()
        layer.weight.grad = gradient.movedim(dim, 0).reshape(matrix.shape)
    return layer


def _item(layer: nn.Linear, indices: list[int], roots: list[int]) -> _helpers.GroupItem:
    node = Node(layer, None, "view")
    item = _helpers.GroupItem(
        Dependency(tp.prune_linear_out_channels, tp.prune_linear_out_channels, node, node), indices
    )
    item.root_idxs = roots
    return item


def score_units(
    model: nn.Module, pruning_class: PruningClass, importance: Callable[[Group], torch.Tensor | None]
) -> torch.Tensor:
    """Scores ``[units]``, or ``[experts, units]`` for a class of fused experts; higher is kept.

    An importance that knows more than a group shows may have a method ``score_class`` that gives them for a class, or
    ``None`` to be asked as usual. Raises ``PruningRefused`` if the importance has no opinion on the class.
    """
    if (known := getattr(importance, "score_class", None)) and (scores := known(pruning_class)) is not None:
        return scores
    scores = [_score(model, pruning_class, importance, e) for e in range(max(pruning_class.experts, 1))]
    return torch.stack(scores) if pruning_class.experts else scores[0]


def _score(model: nn.Module, pruning_class: PruningClass, importance: Callable, expert: int) -> torch.Tensor:
    parameters = dict(model.named_parameters())
    size = pruning_class.coupling.size
    units = list(range(size))
    group = Group()
    wide: list[torch.Tensor] = []
    for member in pruning_class.coupling.members:
        if member.buffer:
            continue
        parameter, dim = parameters[member.parameter], member.dim
        values, gradient = parameter.detach(), parameter.grad
        if pruning_class.experts:
            values, dim = values[expert], dim - 1
            gradient = None if gradient is None else gradient[expert]
        if values.dim() < 2:
            continue  # norm weights and biases: Torch-Pruning's default leaves them out as well
        layer = _as_linear(values, gradient, dim)
        if member.positions.shape[1] <= _FEW_POSITIONS:
            for column in member.positions.T:
                group._group.append(_item(layer, column.tolist(), units))
        else:
            alone = Group()
            order = member.positions.ravel().tolist()
            alone._group.append(_item(layer, order, list(range(len(order)))))
            score = importance(alone)
            if score is not None:
                wide.append(score.float().view(size, -1).mean(1))
    narrow = importance(group) if len(group) else None
    parts = [*wide, *([narrow.float()] if narrow is not None else [])]
    if not parts:
        raise PruningRefused(f"the importance gives no score for {pruning_class.name}; leave it out or use another one")
    return torch.stack(parts).mean(0).cpu()

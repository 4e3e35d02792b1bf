"""Scores of units by any Torch-Pruning importance, on experts of every layout.

Torch-Pruning's importances read layers. They get the model's own ones; a stacked or otherwise loose parameter is shown
to them as linear layers that share its memory: an expert's slice of a fused tensor is that expert's layer. Of experts
whose rows come in turn each shows its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency, Group, Node
from torch_pruning.pruner.importance import OBDCImportance

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import Member
from moeverify.errors import PruningRefused
from moeverify.pruning.graph.groups import repeated

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph

# Without a member of one position a unit, up to this many are scored one by one and averaged.
_FEW_POSITIONS = 4


@dataclass(frozen=True, eq=False)
class _Part:
    """A layer that takes part in a class, and the positions ``[units, positions per unit]`` that each unit has."""

    layer: nn.Module
    handler: Callable
    positions: np.ndarray
    repeats: int = 1
    span: int = 0

    def item(self, columns: np.ndarray) -> _helpers.GroupItem:
        """A group item of some of the columns; indices ascend, as Torch-Pruning's importances sort them."""
        indices = columns.ravel()
        order = np.argsort(indices, kind="stable")
        units = np.repeat(np.arange(len(columns)), columns.shape[1])[order]
        node = Node(self.layer, None, type(self.layer).__name__)
        idxs, roots = indices[order].tolist(), units.tolist()
        if self.span:
            idxs, roots = repeated(indices[order], units, self.repeats, self.span)
        item = _helpers.GroupItem(Dependency(self.handler, self.handler, node, node), idxs)
        item.root_idxs = roots
        return item


def score_units(
    graph: MoEDependencyGraph, pruning_class: PruningClass, importance: Callable[[Group], torch.Tensor | None]
) -> torch.Tensor:
    """Scores ``[units]``, or ``[experts, units]`` where each expert keeps its own; higher is kept.

    An importance that knows more than a group shows may have a method ``score_class`` that gives them for a class, or
    ``None`` to be asked as usual. Raises ``PruningRefused`` if the importance has no opinion on the class, or lacks
    gradients or statistics.
    """
    known: Callable | None = getattr(importance, "score_class", None)
    if known is not None and (given := known(pruning_class)) is not None:
        return given
    if isinstance(importance, tp.importance.GroupHessianImportance):
        importance(Group())  # moves what was accumulated into the gradients, which the parts below share
    scores = [_score(graph, pruning_class, importance, e) for e in range(max(pruning_class.experts, 1))]
    return torch.stack(scores) if pruning_class.experts else scores[0]


def _score(graph: MoEDependencyGraph, pruning_class: PruningClass, importance: Callable, expert: int) -> torch.Tensor:
    """Scores of a class, or of one expert of it. Parts on different devices are scored apart and averaged by number."""
    try:
        shares = _by_device(_parts(graph, pruning_class, importance, expert))
        found = [(_matrices(share), _score_parts(share, pruning_class.coupling.size, importance)) for share in shares]
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise PruningRefused(
            f"{type(importance).__name__} cannot score {pruning_class.name} ({type(error).__name__}: {error}); it may "
            "need gradients (a backward pass) or statistics first"
        ) from error
    known = [(count, scores) for count, scores in found if scores is not None]
    if not known:
        raise PruningRefused(f"the importance gives no score for {pruning_class.name}; leave it out or use another one")
    if len(known) == 1:
        return known[0][1]
    return torch.stack([count * scores for count, scores in known]).sum(0) / sum(count for count, _ in known)


def _device_of(part: _Part) -> torch.device | None:
    weight = getattr(part.layer, "weight", None)
    return weight.device if isinstance(weight, torch.Tensor) else None


def _matrices(parts: list[_Part]) -> int:
    """How many parts an importance counts: norm weights are left out by most."""
    weights = [getattr(part.layer, "weight", None) for part in parts]
    return max(1, sum(isinstance(w, torch.Tensor) and w.dim() > 1 for w in weights))


def _by_device(parts: list[_Part]) -> list[list[_Part]]:
    """Parts that lie together; one without a weight goes with the first ones."""
    shares: dict[torch.device | None, list[_Part]] = {}
    home = next((device for part in parts if (device := _device_of(part)) is not None), None)
    for part in parts:
        shares.setdefault(_device_of(part) or home, []).append(part)
    return list(shares.values())


def _score_parts(parts: list[_Part], size: int, importance: Callable) -> torch.Tensor | None:
    group = Group()
    wide: list[torch.Tensor] = []
    single = any(part.positions.shape[1] == 1 for part in parts)
    added_up = getattr(importance, "group_reduction", "mean") in ("sum", "mean")
    for part in sorted(parts, key=lambda part: part.positions.shape[1] > 1):
        if single and added_up:
            group._group.append(part.item(part.positions))
        elif single or part.positions.shape[1] <= _FEW_POSITIONS:
            group._group += [part.item(column[:, None]) for column in part.positions.T]
        else:  # a head: position by position, then averaged
            wide += _position_scores(part, size, importance)
    narrow = importance(group) if len(group) else None
    found = [*wide, *([narrow.float()[:size]] if narrow is not None and len(narrow) else [])]
    return torch.stack([scores.cpu() for scores in found]).mean(0) if found else None


def _position_scores(part: _Part, size: int, importance: Callable) -> list[torch.Tensor]:
    """Each unit's mean over its positions, if the importance knows the layer."""
    item = part.item(part.positions)
    item.root_idxs = list(range(len(item.idxs)))
    alone = Group()
    alone._group.append(item)
    scores = importance(alone)
    if scores is None or not len(scores):
        return []
    order = np.argsort(part.positions.ravel(), kind="stable")
    by_place = torch.empty(len(order), dtype=torch.float32)
    by_place[torch.as_tensor(order)] = scores.float().cpu()[: len(order)]
    return [by_place.view(size, -1).mean(1)]


def _parts(graph: MoEDependencyGraph, pruning_class: PruningClass, importance: Callable, expert: int) -> list[_Part]:
    """The layers of a class, each side once; loose norm weights and biases, and experts of which a single hidden
    channel is left, only where there is nothing else.
    """
    parts: dict[tuple, _Part] = {}
    vectors: dict[tuple, _Part] = {}
    for member, end in graph.nodes.ends(pruning_class.coupling):
        target = end.node.module
        positions = pruning_class.of_expert(member, expert)
        if isinstance(target, nn.Parameter):
            sliced = pruning_class.experts and (member.parameter, member.dim) not in pruning_class.in_turn
            for number in [expert] if sliced else _slices(target, member, graph):
                view = _view(target, member, number)
                found = parts if view.in_features > 1 else vectors
                found.setdefault((*end.key, number), _Part(view, tp.prune_linear_out_channels, positions))
        else:
            parts.setdefault(end.key, _Part(target, end.function, positions, end.repeats, end.span))
    if isinstance(importance, OBDCImportance):
        return [_with_fisher(part, importance) for part in parts.values() if _is_output(part)]
    return list(parts.values()) or list(vectors.values())


def _slices(parameter: nn.Parameter, member: Member, graph: MoEDependencyGraph) -> Sequence[int | None]:
    """The experts of a stack, whose slices count as so many layers, as those of listed experts do; importances copy
    what they take, and one expert at a time is a small copy. ``None`` for a parameter that is taken as a whole.
    """
    stacks = {name: len(layer.experts) for layer in graph.found_roles.layers if layer.fused for name in layer.stacks}
    count = stacks.get(member.parameter, 0)
    return range(count) if count == parameter.shape[0] and member.dim > 0 else [None]


def _view(parameter: nn.Parameter, member: Member, expert: int | None) -> nn.Linear:
    """A parameter as a linear layer whose outputs are the member's positions."""
    values, gradient, dim = parameter.detach(), parameter.grad, member.dim
    if expert is not None:
        values, gradient, dim = values[expert], None if gradient is None else gradient[expert], dim - 1
    return _as_linear(values, gradient, dim)


def _as_linear(values: torch.Tensor, gradient: torch.Tensor | None, dim: int) -> nn.Linear:
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


def _is_output(part: _Part) -> bool:
    return part.handler in (tp.prune_linear_out_channels, tp.prune_conv_out_channels)


def _with_fisher(part: _Part, importance: OBDCImportance) -> _Part:
    """The part's rows as a layer of their own, with their statistics: Torch-Pruning expects those of whole layers
    without bias. Where none were gathered (fused experts run outside of any layer) the squared gradient stands for
    them.
    """
    layer: Any = part.layer
    rows = torch.as_tensor(part.positions.ravel().copy())
    gradient = None if layer.weight.grad is None else layer.weight.grad[rows]
    view = _as_linear(layer.weight.detach()[rows], gradient, 0)
    importance.steps = max(importance.steps, 1)
    fisher = importance.Fisher.get(layer)
    if fisher is not None:
        importance.Fisher[view] = fisher[rows, : view.in_features]
    elif view.weight.grad is not None:
        importance.Fisher[view] = view.weight.grad.pow(2) * importance.steps
    view.out_features = math.nan  # type: ignore[assignment]  # not the classifier, known to Torch-Pruning by its size
    places = np.arange(len(rows)).reshape(part.positions.shape)
    return _Part(view, tp.prune_linear_out_channels, places)

"""Torch-Pruning's importances as operations on many equal matrices at once.

``formula_of`` gives the operations of an importance, if its methods are Torch-Pruning's own and both ways agree on a
small example. Each operation is the one that the importance does on a single matrix, with a leading dimension more.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency, Group, Node
from torch_pruning.pruner.importance import GroupHessianImportance, GroupMagnitudeImportance, GroupTaylorImportance

REDUCTIONS = ("sum", "mean", "max", "prod", "first", "gate")
_EPSILON = 1e-8
_SETTINGS = ("p", "group_reduction", "normalizer", "bias", "multivariable")
# Methods that a formula stands for beside ``__call__``.
_STEPS = ("_reduce", "_normalize", "_lamp")
# Memory for the scores of single weights.
_Out = torch.Tensor | None


def _magnitude(importance: Any, values: torch.Tensor, gradients: torch.Tensor | None, out: _Out) -> torch.Tensor:
    power = importance.p
    return torch.square(values, out=out) if power == 2 else torch.abs(values, out=out).pow_(power)


def _taylor(importance: Any, values: torch.Tensor, gradients: torch.Tensor | None, out: _Out) -> torch.Tensor:
    assert gradients is not None
    products = torch.mul(values, gradients, out=out)
    return products if importance.multivariable else products.abs_()


def _hessian(importance: Any, values: torch.Tensor, gradients: torch.Tensor | None, out: _Out) -> torch.Tensor:
    assert gradients is not None
    return torch.square(values, out=out).mul_(gradients)


# By the method that scores a group: scores of single weights.
_LOCAL: dict[Callable, Callable[..., torch.Tensor]] = {
    GroupMagnitudeImportance.__call__: _magnitude,
    GroupTaylorImportance.__call__: _taylor,
    GroupHessianImportance.__call__: _hessian,
}


@dataclass(frozen=True, eq=False)
class Formula:
    """The operations of one importance."""

    importance: Any
    local: Callable[..., torch.Tensor]
    _memory: dict[tuple[torch.device, torch.dtype, bool], torch.Tensor] = field(default_factory=dict)

    @property
    def reduction(self) -> str:
        """Combination of a group's matrices; one of ``REDUCTIONS``."""
        return str(self.importance.group_reduction)

    @property
    def needs_gradient(self) -> bool:
        """Whether it needs gradients to score values."""
        return self.local is not _magnitude

    @property
    def passes_over_missing_gradients(self) -> bool:
        """Whether matrices without gradient are left out; otherwise they are an error."""
        return self.local is _hessian

    def takes(self, layer: nn.Module) -> bool:
        """Whether the importance scores layers of this type."""
        return isinstance(layer, tuple(self.importance.target_types))

    def scores(self, values: torch.Tensor, gradients: torch.Tensor | None, *, copied: bool = False) -> torch.Tensor:
        """Scores ``[matrices, channels]`` of values ``[matrices, channels, ...]``.

        ``copied``: whether the importance copies what it takes, so that it sums over contiguous memory.
        """
        if copied and type(values) is not torch.Tensor:
            values, gradients = values.contiguous(), None if gradients is None else gradients.contiguous()
        # Two tensors are read faster in their own order, and one copy made of what comes out.
        turned = copied and gradients is not None and not values.is_contiguous()
        out = self._memory_for(values, in_order=copied and not turned)
        singles = self.local(self.importance, values, gradients, out)
        if turned and (ordered := self._memory_for(values, in_order=True, second=True)) is not None:
            singles = ordered.copy_(singles)
        scores = singles.sum(tuple(range(2, singles.dim()))) if singles.dim() > 2 else singles
        return scores.abs_() if self.local is _taylor and self.importance.multivariable else scores

    def _memory_for(self, values: torch.Tensor, *, in_order: bool, second: bool = False) -> _Out:
        """Memory for scores of ``values``, the same for every call: fresh pages cost more than the arithmetic.

        ``in_order``: contiguous; otherwise in the order of ``values``. ``None`` if the scores would be the result
        itself, or for a class of tensors of its own.
        """
        if values.dim() <= 2 or type(values) is not torch.Tensor:
            return None
        key = (values.device, values.dtype, second)
        held = self._memory.get(key)
        if held is None or held.numel() < values.numel():
            held = self._memory[key] = torch.empty(values.numel(), dtype=values.dtype, device=values.device)
        if in_order:
            return held[: values.numel()].view(values.shape)
        return held.as_strided(values.shape, torch.empty_like(values, device="meta").stride())

    def normalized(self, rows: torch.Tensor) -> torch.Tensor:
        """Each row of ``[experts, channels]`` normalised by itself."""
        kind = self.importance.normalizer
        if kind is None:
            return rows
        if isinstance(kind, str):
            return _normalized(rows, kind)
        return torch.stack([kind(row) for row in rows])


def _normalized(rows: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "sum":
        return rows / rows.sum(-1, keepdim=True)
    if kind == "mean":
        return rows / rows.mean(-1, keepdim=True)
    if kind == "max":
        return rows / rows.amax(-1, keepdim=True)
    if kind == "standarization":  # Torch-Pruning's spelling
        least = rows.amin(-1, keepdim=True)
        return (rows - least) / (rows.amax(-1, keepdim=True) - least + _EPSILON)
    if kind == "gaussian":
        return (rows - rows.mean(-1, keepdim=True)) / (rows.std(-1, keepdim=True) + _EPSILON)
    if kind == "lamp":
        return _lamp(rows)
    place = int(float(kind.split("_")[1]) * rows.shape[-1])  # "sentinel_0.5": the median
    return rows / (rows.sort(-1).values[:, place, None] + _EPSILON)


def _lamp(rows: torch.Tensor) -> torch.Tensor:
    """Each score divided by the sum of those that are not below it."""
    ordered, places = rows.sort(-1)
    below = torch.zeros_like(ordered)
    below[:, 1:] = ordered.cumsum(-1)[:, :-1]
    return torch.zeros_like(ordered).scatter_(-1, places, ordered / (rows.sum(-1, keepdim=True) - below))


def formula_of(importance: Any) -> Formula | None:
    """The operations of an importance; ``None`` if they are not known.

    Known are importances whose methods are Torch-Pruning's, whatever their class is called. A release or fork that
    computes otherwise shows in a small example.
    """
    kind: Any = type(importance)
    local = _LOCAL.get(kind.__call__) if isinstance(importance, GroupMagnitudeImportance) else None
    if local is None or getattr(importance, "group_reduction", None) not in REDUCTIONS:
        return None
    own = vars(importance).keys() & {*_STEPS, "__call__"}
    if own or any(getattr(kind, step) is not getattr(GroupMagnitudeImportance, step) for step in _STEPS):
        return None
    formula = Formula(importance, local)
    settings = tuple(getattr(importance, name, None) for name in _SETTINGS)
    if not all(isinstance(setting, Hashable) for setting in settings):
        return None
    methods = (kind.__call__, *(getattr(kind, step) for step in _STEPS))
    return formula if _agrees(kind, methods, settings) else None


def is_random(importance: Any) -> bool:
    """Whether the importance draws a number for each channel, and nothing else."""
    return type(importance).__call__ is tp.importance.RandomImportance.__call__


@lru_cache(maxsize=64)
def _agrees(kind: Any, methods: tuple[Callable, ...], settings: tuple) -> bool:
    """Whether an importance and its formula give the same scores for a small group; ``methods`` are part of the key."""
    importance: Any = object.__new__(kind)
    vars(importance).update(zip(_SETTINGS, settings, strict=True))
    vars(importance).update(target_types=[nn.Linear], _accu_grad={}, _counter={})
    layer = nn.Linear(3, 5, bias=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.weight.copy_((torch.arange(15.0).view(5, 3) * 0.7).sin())
        layer.weight.grad = (torch.arange(15.0).view(5, 3) * 1.3).cos()
        formula = Formula(copy.copy(importance), _LOCAL[kind.__call__])
        try:
            theirs = importance(_group_of(layer, tp.prune_linear_out_channels, 5))
            inside = importance(_group_of(layer, tp.prune_linear_in_channels, 3))
            values, gradients = layer.weight[None], layer.weight.grad[None]
            ours = formula.normalized(formula.scores(values, gradients).float())[0]
            turned = formula.scores(values.transpose(1, 2), gradients.transpose(1, 2)).float()
            pairs = ((theirs, ours), (inside, formula.normalized(turned)[0]))
            return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True) for a, b in pairs)
        except Exception:  # what it raises for the model, it raises there with the reason
            return False


def _group_of(layer: nn.Linear, function: Callable, count: int) -> Group:
    node = Node(layer, None, "layer")
    item = _helpers.GroupItem(Dependency(function, function, node, node), list(range(count)))
    item.root_idxs = list(range(count))
    group = Group()
    group._group.append(item)
    return group

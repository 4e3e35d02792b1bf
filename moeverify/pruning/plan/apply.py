"""Application of a plan: slice every parameter and buffer, and leave all else unchanged.

Values are exchanged inside the existing parameters. So tied weights stay tied, and ``requires_grad``, hooks and the
training mode stay. Everything is checked before the first value is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.plan.expert_cut import remove_experts
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.plan.sites import update_sizes

Keep = Mapping[tuple[str, int], np.ndarray]


class OwnFunction(NamedTuple):
    """A layer's own pruning function; ``size`` is its number of channels, which the function may not report."""

    layer: nn.Module
    prune: Callable
    size: int


OwnFunctions = Mapping[str, OwnFunction]


def slice_kept(values: torch.Tensor, dim: int, kept: np.ndarray) -> torch.Tensor:
    """``values`` with the positions ``kept`` along ``dim``; ``kept`` of shape ``[experts, n]`` holds one row for each
    position of dimension 0.
    """
    index = torch.as_tensor(kept, device=values.device)
    if index.dim() == 1:
        return values.index_select(dim, index)
    return torch.stack([values[e].index_select(dim - 1, row) for e, row in enumerate(index)])


def apply_plan(model: nn.Module, plan: Plan, own_functions: OwnFunctions | None = None) -> None:
    """Prune ``model`` in place by ``plan``; see ``apply_keep``."""
    apply_keep(model, plan.keep, own_functions)
    remove_experts(model, plan.experts)


@torch.no_grad()
def apply_keep(model: nn.Module, keep: Keep, own_functions: OwnFunctions | None = None) -> None:
    """Keep only the positions ``keep[name, dim]`` of each parameter and buffer, one tensor after the other.

    ``own_functions`` are the pruning functions of layers that cut themselves, by the name of their channels. Raises
    ``PruningRefused``, with the model untouched, if ``keep`` does not fit the model.
    """
    functions = own_functions or {}
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    check_keep(tensors, keep, functions)
    by_name: dict[str, dict[int, np.ndarray]] = {}
    for (name, dim), kept in keep.items():
        by_name.setdefault(name, {})[dim] = kept
    for name, cuts in by_name.items():
        if name not in functions:
            _cut_tensor(tensors[name], cuts)
    done: set[tuple[int, Callable]] = set()
    for name, cuts in by_name.items():
        if name in functions:
            own = functions[name]
            key = (id(own.layer), getattr(own.prune, "__func__", own.prune))
            if key not in done:  # inputs and outputs that are the same channels go by one call
                done.add(key)
                _cut_layer(own, cuts[0])
    update_sizes(model)


def check_keep(tensors: Mapping[str, torch.Tensor], keep: Keep, functions: OwnFunctions) -> None:
    """Raise ``PruningRefused`` unless every entry names a tensor, and positions that it has, in ascending order."""
    for (name, dim), kept in keep.items():
        if name in functions:
            continue
        if name not in tensors:
            raise PruningRefused(f"the model has no parameter or buffer {name}; nothing was changed")
        shape = tuple(tensors[name].shape)
        if not 0 <= dim < len(shape) or kept.size == 0:
            raise PruningRefused(f"nothing would be left of {name} {list(shape)} along dimension {dim}")
        rows = kept.ndim == 2
        fits = not rows or (dim > 0 and kept.shape[0] == shape[0])
        if not fits or kept.min() < 0 or kept.max() >= shape[dim] or (np.diff(kept, axis=-1) <= 0).any():
            raise PruningRefused(
                f"positions of dimension {dim} do not fit {name} {list(shape)}; the model was changed after it was "
                "traced: build the dependency graph again"
            )


def _cut_tensor(tensor: torch.Tensor, cuts: Mapping[int, np.ndarray]) -> None:
    values, gradient = tensor.data, tensor.grad
    # One row of positions for each expert first: afterwards there may be fewer experts.
    for dim, kept in sorted(cuts.items(), key=lambda cut: -cut[1].ndim):
        values = slice_kept(values, dim, kept)
        gradient = None if gradient is None else slice_kept(gradient, dim, kept)
    tensor.grad = None
    # A loss that is still alive keeps the node that accumulates this parameter's gradient, and the node its old shape.
    # PyTorch makes a new one when the type of the data changes.
    tensor.data = tensor.new_empty(0, dtype=torch.float64 if tensor.dtype != torch.float64 else torch.float32)
    tensor.data = values.contiguous()
    tensor.grad = gradient


def _cut_layer(own: OwnFunction, kept: np.ndarray) -> None:
    trains = {path: parameter.requires_grad for path, parameter in own.layer.named_parameters()}
    own.prune(own.layer, np.setdiff1d(np.arange(own.size), kept).tolist())
    for path, parameter in own.layer.named_parameters():
        parameter.requires_grad_(trains.get(path, True))

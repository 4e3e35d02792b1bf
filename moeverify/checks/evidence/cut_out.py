"""A model with some channels really cut out, to see whether it runs: shapes that must agree show only then."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.models.forward import call_model
from moeverify.models.numerics import float64_throughout

Cut = Mapping[tuple[str, int], np.ndarray]


def runs_without(model: nn.Module, held: Cut, buffers: Cut, units: int, inputs: Any, counting: Collection[str]) -> bool:
    """Whether a float64 model runs without the places that ``held`` marks and the positions in ``buffers``.

    The places are one of ``units`` units. Attributes of modules near them go along: those that keep a dimension's size,
    and those named in ``counting`` if they keep the number of units. Channels that each expert of a stack chooses for
    itself are not cut: ``False``.
    """
    if any(gone.ndim != 1 for gone in held.values()):
        return False
    model = copy.deepcopy(model)
    gone = {key: np.flatnonzero(mask) for key, mask in held.items()} | dict(buffers)
    try:
        for (name, dim), positions in gone.items():
            _cut(model, name, dim, positions, units, counting)
        with float64_throughout():
            call_model(model, inputs, use_cache=False)
    except Exception:  # whatever a forward raises where shapes do not agree
        return False
    return True


def counting_attributes(model: nn.Module, held: Cut, units: int) -> list[set[str]]:
    """Names of attributes near ``held`` that may keep the number of units: all of them, then each alone."""
    result = {
        attribute
        for name, _ in held
        for near in _near(name)
        for attribute, value in vars(model.get_submodule(near)).items()
        if type(value) is int and value == units > 1
    }
    return [result, *({name} for name in sorted(result) if len(result) > 1)]


def _cut(model: nn.Module, name: str, dim: int, positions: np.ndarray, units: int, counting: Collection[str]) -> None:
    tensor = dict(_tensors(model))[name]
    size = tensor.shape[dim]
    left = np.setdiff1d(np.arange(size), positions)
    small = tensor.detach().index_select(dim, torch.as_tensor(left, device=tensor.device))
    for path in [path for path, other in _tensors(model) if other is tensor]:
        owner, _, leaf = path.rpartition(".")
        module = model.get_submodule(owner)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(small, requires_grad=False)
        else:
            module._buffers[leaf] = small
        for near in _near(path):
            for attribute, value in list(vars(model.get_submodule(near)).items()):
                new = units - 1 if attribute in counting and value == units else _resized(value, size, len(left))
                if new is not value:
                    setattr(model.get_submodule(near), attribute, new)


def _near(name: str) -> tuple[str, str]:
    """The module that owns a tensor, and the one that holds it."""
    owner = name.rpartition(".")[0]
    return owner, owner.rpartition(".")[0]


def _resized(value: Any, size: int, left: int) -> Any:
    if type(value) is int:
        return left if value == size > 1 else value
    is_shape = isinstance(value, tuple) and size in value and all(type(n) is int for n in value)
    return tuple(left if n == size else n for n in value) if is_shape else value


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)

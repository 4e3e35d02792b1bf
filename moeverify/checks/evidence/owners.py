"""Experts in modules or parameters of their own, known by the values that they hold."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.locate import bits
from moeverify.checks.evidence.router_tensors import experts_apart
from moeverify.models.moe_layer import last, parent
from moeverify.models.roles import MoELayer


def owners(original: nn.Module, pruned: nn.Module, layer: MoELayer) -> list[int]:
    """The original's number of each expert that ``pruned`` has apart, in order; -1 where its values do not tell."""
    return [_owner(_tensors(pruned, paths), original, layer) for paths in experts_apart(pruned, layer)]


def _owner(tensors: dict[str, torch.Tensor], original: nn.Module, layer: MoELayer) -> int:
    """The original expert that holds all values of an expert's largest parameter; -1 if not exactly one does."""
    if not tensors:
        return -1
    leaf = max(tensors, key=lambda name: tensors[name].numel())
    values = bits(tensors[leaf]).ravel()
    fits = []
    for number, paths in enumerate(layer.parts):
        theirs = _tensors(original, paths).get(leaf)
        if theirs is not None and theirs.dtype == tensors[leaf].dtype and np.isin(values, bits(theirs)).all():
            fits.append(number)
    return fits[0] if len(fits) == 1 else -1


def _tensors(model: nn.Module, paths: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Parameters of one expert, by the place of their module among the expert's and the name in it."""
    found: dict[str, torch.Tensor] = {}
    for place, path in enumerate(paths):
        held = model.get_submodule(parent(path))
        own = held._parameters.get(last(path))
        inner = {"": own} if own is not None else dict(held.get_submodule(last(path)).named_parameters())
        found |= {f"{place}.{name}": tensor for name, tensor in inner.items()}
    return found

"""The original, with constants moved into its weights as a subject claims."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import nn

Constants = Mapping[tuple[str, str], tuple[float, float]]


class FoldedWeight(Protocol):
    """A weight that took over a factor: ``(w + offset) * factor - offset``; ``offset`` is 1 for norms of w - 1."""

    @property
    def parameter(self) -> str:
        """The weight's name."""

    @property
    def factor(self) -> float:
        """Factor of the fold."""

    @property
    def offset(self) -> float:
        """Number added before and subtracted after the multiplication."""


def folded_values(fold: FoldedWeight, values: torch.Tensor) -> torch.Tensor:
    """``values`` with the factor, computed in float64 and rounded once."""
    return ((values.detach().double() + fold.offset) * fold.factor - fold.offset).to(values.dtype)


@torch.no_grad()
def with_constants(original: nn.Module, folds: Iterable[FoldedWeight], constants: Constants) -> nn.Module:
    """A copy with every fold in its weight, rounded once, and the new values of constant attributes.

    ``constants`` gives for a module's path and an attribute the old and the new value. Unsaved one-number buffers that
    repeat the old value follow.
    """
    model = copy.deepcopy(original)
    for fold in folds:
        owner, _, leaf = fold.parameter.rpartition(".")
        weight = getattr(model.get_submodule(owner), leaf)
        weight.copy_(folded_values(fold, weight))
    for (path, attribute), (old, new) in constants.items():
        module = model.get_submodule(path)
        setattr(module, attribute, new)
        saved = set(module.state_dict())
        for name, buffer in module.named_buffers(recurse=False):
            if name not in saved and buffer.numel() == 1 and math.isclose(float(buffer), old, rel_tol=1e-2):
                buffer.fill_(new)
    return model

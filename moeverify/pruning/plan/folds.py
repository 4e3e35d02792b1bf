"""Weights that take over a constant which the pruned configuration would change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Fold:
    """Factor that a weight takes over in place of a constant of the forward.

    Values become ``(values + offset) * factor - offset``. ``offset`` is 1 for norms that store weight - 1.
    """

    parameter: str
    factor: float
    offset: float = 0.0

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Folded values, computed in float64 and rounded once."""
        exact = (values.detach().double() + self.offset) * self.factor - self.offset
        return exact.to(values.dtype)


@torch.no_grad()
def apply_folds(model: nn.Module, folds: Iterable[Fold]) -> None:
    """Fold in place."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for fold in folds:
        parameter = parameters[fold.parameter]
        parameter.copy_(fold.of(parameter))

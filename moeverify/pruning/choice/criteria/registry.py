"""Criteria for whole experts by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from moeverify.base.extensions import load_extensions
from moeverify.errors import UsageError


@dataclass(frozen=True)
class ExpertWeights:
    """Weights of one layer's experts: ``flat[expert]`` is one float32 vector of all that belongs to it alone.

    The vectors are made one by one, each time that they are asked for.
    """

    flat: Sequence[torch.Tensor]


@dataclass(frozen=True)
class LayerStatistics:
    """Sums over all tokens that the model routed in one MoE layer, one entry for each expert ``[experts]``, float64.

    ``g`` is the routing weight that the model gave an expert for a token, ``f`` the expert's output. ``tokens`` counts
    tokens. ``weight`` sums g, ``norm`` sums norm(f), ``weighted_norm`` sums g * norm(f), ``square`` sums norm(f)
    squared. ``turned`` sums g * norm(f) * max(1 - cos(in, out), 0); in and out are the token before and after its
    routed experts.
    """

    tokens: torch.Tensor
    weight: torch.Tensor
    norm: torch.Tensor
    weighted_norm: torch.Tensor
    square: torch.Tensor
    turned: torch.Tensor


@dataclass(frozen=True, eq=False)
class ExpertCriterion:
    """A criterion: experts with the lowest scores are removed. Exactly one of its two functions is set."""

    name: str
    from_statistics: Callable[[LayerStatistics], torch.Tensor] | None = None
    from_weights: Callable[[ExpertWeights, torch.Generator], torch.Tensor] | None = None

    @property
    def needs_data(self) -> bool:
        """Whether it ranks by what experts did on calibration data."""
        return self.from_statistics is not None


EXPERT_CRITERIA: dict[str, ExpertCriterion] = {}


def by_statistics(name: str) -> Callable:
    """Register a function ``(LayerStatistics) -> scores`` under a name."""

    def register(function: Callable[[LayerStatistics], torch.Tensor]) -> Callable:
        EXPERT_CRITERIA[name] = ExpertCriterion(name, from_statistics=function)
        return function

    return register


def by_weights(name: str) -> Callable:
    """Register a function ``(ExpertWeights, generator) -> scores`` under a name."""

    def register(function: Callable[[ExpertWeights, torch.Generator], torch.Tensor]) -> Callable:
        EXPERT_CRITERIA[name] = ExpertCriterion(name, from_weights=function)
        return function

    return register


def criterion_named(name: str) -> ExpertCriterion:
    """The criterion of a name, with ``-`` or ``_`` between words. Raises ``UsageError`` for an unknown one."""
    key = name.replace("_", "-").lower()
    if key not in EXPERT_CRITERIA:
        load_extensions("importances")
    criterion = EXPERT_CRITERIA.get(key)
    if criterion is None:
        raise UsageError(f"unknown expert criterion {name!r}; use {', '.join(EXPERT_CRITERIA)}, or a function")
    return criterion


def mean(total: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Totals per token; 0 for an expert without tokens, which the caller ranks separately."""
    return torch.where(tokens > 0, total / tokens.clamp_min(1), torch.zeros_like(total))

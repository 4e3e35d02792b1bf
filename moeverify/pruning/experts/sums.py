"""Running sums of what the experts of one MoE layer did, and what both ways to watch them share."""

from __future__ import annotations

import torch
from torch import nn

from moeverify.pruning.choice.criteria.registry import LayerStatistics

TOLERANCE = 2e-2
REMEDY = "; use a criterion of weights alone: aimer, magnitude or random"


def turned(before: torch.Tensor, routed: torch.Tensor) -> torch.Tensor:
    """max(1 - cos(in, out), 0) of each token, ``out`` being ``in`` with the routed experts' output added."""
    before = before.float()
    return (1 - nn.functional.cosine_similarity(before, before + routed.float(), dim=-1)).clamp_min(0)


class Sums:
    """Running sums of one MoE layer, float64, on the CPU: their size does not depend on the number of tokens."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self._sums = {f: torch.zeros(experts, dtype=torch.float64) for f in LayerStatistics.__dataclass_fields__}

    def add(
        self, tokens: torch.Tensor, expert: torch.Tensor, weight: torch.Tensor, norm: torch.Tensor, turn: torch.Tensor
    ) -> None:
        """Add pairs of a token and an expert ``[pairs]``; ``turn [tokens]`` is max(1 - cos(in, out), 0).

        Pairs with weight zero, or with a class that has no expert, are ignored.
        """
        routed = (weight != 0) & (expert < self.experts) & (expert >= 0)
        tokens, expert = tokens[routed], expert[routed]
        weight, norm = weight[routed].double(), norm[routed].double()
        values = {
            "tokens": torch.ones_like(norm),
            "weight": weight,
            "norm": norm,
            "weighted_norm": weight.abs() * norm,
            "square": norm.square(),
            "turned": weight.abs() * norm * turn[tokens].double(),
        }
        for name, value in values.items():
            self._sums[name] += torch.bincount(expert, value, minlength=self.experts).cpu()

    def result(self) -> LayerStatistics:
        """The sums so far."""
        return LayerStatistics(**self._sums)

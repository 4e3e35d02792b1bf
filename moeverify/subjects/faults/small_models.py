"""Small models for faults that no model of the zoo can have: several outputs, and a tower that no input reaches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HIDDEN, WIDTH, EXPERTS = 24, 32, 4


class SmallMoE(nn.Module):
    """Two of four experts for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN, WIDTH), nn.GELU(), nn.Linear(WIDTH, HIDDEN)) for _ in range(EXPERTS)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[..., hidden]`` to the same."""
        weights, chosen = self.gate(hidden).softmax(-1).topk(2, -1)
        mixed = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            share = (weights * (chosen == number)).sum(-1, keepdim=True)
            rows = (chosen == number).any(-1)
            if rows.any():
                mixed = mixed.index_put((rows,), expert(hidden[rows]) * share[rows])
        return mixed


class TwoOutputs(nn.Module):
    """A score and a class of each token, from one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.moe, self.middle = nn.Linear(10, HIDDEN), SmallMoE(), nn.Linear(HIDDEN, WIDTH)
        self.score, self.label = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 5)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[..., 10]`` to ``[..., 1]`` and ``[..., 5]``."""
        hidden = self.first(features)
        hidden = F.gelu(self.middle(hidden + self.moe(hidden)))
        return self.score(hidden), self.label(hidden)


class WithTower(nn.Module):
    """Token features, and a tower for images that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        # Sizes of its own: what no input uses keeps our pruner from every dimension of the same size.
        self.tower = nn.Sequential(nn.Linear(12, 40), nn.GELU(), nn.Linear(40, 18), nn.Linear(18, HIDDEN))
        self.first, self.moe, self.last = nn.Linear(10, HIDDEN), SmallMoE(), nn.Linear(HIDDEN, 5)

    def forward(self, features: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """``[batch, tokens, 10]``, and ``[batch, patches, 12]`` if there is an image."""
        hidden = self.first(features)
        if image is not None:
            hidden = torch.cat([self.tower(image), hidden], 1)
        return self.last(hidden + self.moe(hidden))


def two_outputs() -> tuple[nn.Module, Any]:
    """The model with two outputs and its inputs."""
    torch.manual_seed(0)
    return TwoOutputs().eval(), {"features": torch.randn(2, 16, 10)}


def with_tower() -> tuple[nn.Module, Any]:
    """The model with a tower, and inputs without an image."""
    torch.manual_seed(0)
    return WithTower().eval(), {"features": torch.randn(2, 16, 10)}

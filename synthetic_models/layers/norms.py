"""RMSNorm and LayerNorm."""

from __future__ import annotations

import torch
from torch import nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, in float32 as language models do it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[..., n]`` to ``[..., n]``."""
        wide = hidden.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * wide.to(hidden.dtype)


def make_norm(kind: str, size: int) -> nn.Module:
    """A norm of kind ``rms`` or ``layer``."""
    return RMSNorm(size) if kind == "rms" else nn.LayerNorm(size)

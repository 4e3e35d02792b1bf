"""One expert or dense feed-forward part."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from synthetic_models.names import Names


def activate(kind: str, up: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """SwiGLU, GeGLU, or a plain GELU where there is no gate."""
    if gate is None:
        return F.gelu(up)
    return (F.silu(gate) if kind == "swiglu" else F.gelu(gate)) * up


class MLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``, or ``down(gelu(up(x)))`` for ``mlp``."""

    def __init__(self, names: Names, hidden: int, width: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.names = names
        self.activation = activation
        if activation != "mlp":
            self.add_module(names.gate, nn.Linear(hidden, width, bias=bias))
        self.add_module(names.up, nn.Linear(hidden, width, bias=bias))
        self.add_module(names.down, nn.Linear(width, hidden, bias=bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., hidden]`` to ``[..., hidden]``."""
        gate = getattr(self, self.names.gate)(x) if self.activation != "mlp" else None
        return getattr(self, self.names.down)(activate(self.activation, getattr(self, self.names.up)(x), gate))

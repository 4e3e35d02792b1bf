"""One decoder layer."""

from __future__ import annotations

import torch
from torch import nn

from synthetic_models.layers.attention import make_attention
from synthetic_models.layers.mlp import MLP
from synthetic_models.layers.moe import MoE
from synthetic_models.layers.norms import make_norm
from synthetic_models.names import FAMILIES
from synthetic_models.sizes import Sizes
from synthetic_models.spec import Spec


class Block(nn.Module):
    """Attention (if any) and a dense or MoE feed-forward part, with pre-, post- or parallel residuals."""

    def __init__(self, spec: Spec, sizes: Sizes, number: int) -> None:
        super().__init__()
        hidden = sizes["hidden_size"]
        self.residual = spec.residual
        attention = make_attention(spec, sizes, number)
        if attention is not None:
            self.self_attn = attention
            if spec.residual != "parallel":
                self.attention_norm = make_norm(spec.norm, hidden)
        self.mlp_norm = make_norm(spec.norm, hidden)
        names = FAMILIES[spec.names]
        self.is_moe = spec.layers[number] == "moe"
        self.part = names.moe if self.is_moe else "mlp"
        if self.is_moe:
            self.add_module(self.part, MoE(spec, sizes, number))
        else:
            width = sizes[f"layer_{number}_dense_size"]
            self.mlp = MLP(names, hidden, width, spec.activation, spec.bias)

    def _feed(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        part = getattr(self, self.part)
        return part(x, ids) if self.is_moe else part(x)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """``[batch, length, hidden]`` and token numbers ``[batch, length]`` to ``[batch, length, hidden]``."""
        attention = getattr(self, "self_attn", None)
        if self.residual == "parallel":
            normed = self.mlp_norm(x)
            return x + self._feed(normed, ids) + (attention(normed) if attention is not None else 0)
        if self.residual == "post":
            if attention is not None:
                x = self.attention_norm(x + attention(x))
            return self.mlp_norm(x + self._feed(x, ids))
        if attention is not None:
            x = x + attention(self.attention_norm(x))
        return x + self._feed(self.mlp_norm(x), ids)

"""The MoE layer: router, routed experts, shared experts."""

from __future__ import annotations

import torch
from torch import nn

from synthetic_models.layers.experts import StackedExperts, dispatch
from synthetic_models.layers.mlp import MLP
from synthetic_models.layers.routers import Router, corrected
from synthetic_models.names import FAMILIES
from synthetic_models.sizes import Sizes
from synthetic_models.spec import Spec


class MoE(nn.Module):
    """``[batch, length, hidden]`` to the same. ``number`` is the layer's, for its entries in ``sizes``."""

    def __init__(self, spec: Spec, sizes: Sizes, number: int) -> None:
        super().__init__()
        self.names = FAMILIES[spec.names]
        self.ring, self.chain = spec.strength("ring"), spec.strength("chain")
        hidden, prefix = sizes["hidden_size"], f"layer_{number}_"
        count = sizes[f"{prefix}experts"]
        router = Router(spec, hidden, sizes.get(f"{prefix}router_size", 0), count)
        self.add_module(self.names.router, router)
        self.count, self.zero = count, spec.zero_experts
        if corrected(spec) and spec.correction == "block":
            self.e_score_correction_bias = nn.Parameter(torch.zeros(count + spec.zero_experts))
        experts: nn.Module
        if spec.storage == "listed":
            experts = nn.ModuleList(
                MLP(self.names, hidden, sizes.get(f"{prefix}expert_{e}_size", 2), spec.activation, spec.bias)
                for e in range(count)
            )
        else:
            width = sizes[f"{prefix}experts_size"]
            experts = StackedExperts(
                spec.storage, count, hidden, width, spec.activation, spec.bias, spec.strength("chain")
            )
        self.add_module(self.names.experts, experts)
        parts = [
            MLP(self.names, hidden, size, spec.activation, spec.bias)
            for key, size in sizes.items()
            if key.startswith(f"{prefix}shared_")
        ]
        self.shared_name = f"{self.names.shared}s" if spec.shared == "several" else self.names.shared
        self.gate_name = ""
        if parts:
            self.add_module(self.shared_name, nn.ModuleList(parts) if spec.shared == "several" else parts[0])
        if spec.shared == "gated":
            self.gate_name = f"{self.names.shared}_gate"
            self.add_module(self.gate_name, nn.Linear(hidden, 1, bias=False))

    def _shared(self, x: torch.Tensor) -> torch.Tensor | None:
        shared = getattr(self, self.shared_name, None)
        if shared is None:
            return None
        out = sum((part(x) for part in shared[1:]), shared[0](x)) if isinstance(shared, nn.ModuleList) else shared(x)
        return getattr(self, self.gate_name)(x).sigmoid() * out if self.gate_name else out

    def _once(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        common = self._shared(x)
        seen = x + common if self.ring and common is not None else x
        assigned = getattr(self, self.names.router)(seen, ids, getattr(self, "e_score_correction_bias", None))
        experts = getattr(self, self.names.experts)
        if isinstance(experts, nn.ModuleList):
            out = dispatch(lambda e, rows: experts[e](rows), len(experts), x, assigned, self.chain)
        else:
            out = experts(x, assigned.experts, assigned.tokens, assigned.weights)
        if self.zero:
            unchanged = assigned.experts >= self.count
            out = out.index_add(0, assigned.tokens, x[assigned.tokens] * (assigned.weights * unchanged)[:, None])
        return out if common is None else out + common

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """``ids`` are the token numbers ``[batch, length]``, for routers that hash them."""
        x, ids = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1)
        out = self._once(x, ids)
        for _ in range(self.ring):  # expert -> shared expert -> router -> expert
            out = self._once(x + torch.tanh(out), ids)
        return out.view(hidden.shape)

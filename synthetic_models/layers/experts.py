"""Routed experts: which tokens each one computes, and stacked storage of their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from synthetic_models.layers.mlp import activate


@dataclass(frozen=True, eq=False)
class Assignment:
    """One entry for each pair of a token and an expert that computes it: three tensors ``[pairs]``."""

    experts: torch.Tensor
    tokens: torch.Tensor
    weights: torch.Tensor


def dispatch(
    run: Callable[[int, torch.Tensor], torch.Tensor], count: int, x: torch.Tensor, assigned: Assignment, chain: int
) -> torch.Tensor:
    """Sum of the experts' weighted outputs, ``[tokens, hidden]``; experts without a token do not run.

    With ``chain`` n, expert k (1 to n) also receives what expert k - 1 makes of its input.
    """

    def feed(number: int, rows: torch.Tensor) -> torch.Tensor:
        return run(number, rows + feed(number - 1, rows) if 0 < number <= chain else rows)

    out = torch.zeros_like(x)
    for number in range(count):
        (pairs,) = torch.where(assigned.experts == number)
        if pairs.numel():
            rows = assigned.tokens[pairs]
            out.index_add_(0, rows, feed(number, x[rows]) * assigned.weights[pairs, None])
    return out


class StackedExperts(nn.Module):
    """Experts in stacked parameters.

    ``fused``: gate_up ``[experts, 2 width, hidden]``, down ``[experts, hidden, width]``; ``fused_transposed``: the
    last two dimensions exchanged; ``fused_interleaved``: transposed, gate at even and up at odd positions;
    ``per_projection``: gate, up and down each on its own, as ``fused`` lays them out.
    """

    def __init__(
        self, storage: str, count: int, hidden: int, width: int, activation: str, bias: bool, chain: int
    ) -> None:
        super().__init__()
        self.storage, self.activation, self.chain, self.count = storage, activation, chain, count
        gated = activation != "mlp"
        apart = storage == "per_projection" or not gated
        first = {"up_proj": width, **({"gate_proj": width} if gated else {})} if apart else {"gate_up_proj": 2 * width}
        transposed = storage in ("fused_transposed", "fused_interleaved")
        for name, size in first.items():
            shape = (count, hidden, size) if transposed else (count, size, hidden)
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
            if bias:
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(count, size)))
        shape = (count, width, hidden) if transposed else (count, hidden, width)
        self.down_proj = nn.Parameter(torch.zeros(shape))
        if bias:
            self.down_proj_bias = nn.Parameter(torch.zeros(count, hidden))

    def _project(self, name: str, number: int, x: torch.Tensor) -> torch.Tensor:
        weight = getattr(self, name)[number]
        bias = getattr(self, f"{name}_bias", None)
        if self.storage in ("fused_transposed", "fused_interleaved"):
            out = x @ weight
            return out if bias is None else out + bias[number]
        return F.linear(x, weight, None if bias is None else bias[number])

    def run(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """One expert on ``[rows, hidden]``."""
        gate = None
        if hasattr(self, "up_proj"):
            up = self._project("up_proj", number, x)
            gate = self._project("gate_proj", number, x) if hasattr(self, "gate_proj") else None
        else:
            both = self._project("gate_up_proj", number, x)
            if self.storage == "fused_interleaved":
                gate, up = both[..., ::2], both[..., 1::2]
            else:
                gate, up = both.chunk(2, dim=-1)
        return self._project("down_proj", number, activate(self.activation, up, gate))

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """``[tokens, hidden]`` and an assignment to ``[tokens, hidden]``."""
        return dispatch(self.run, self.count, x, Assignment(experts, tokens, weights), self.chain)

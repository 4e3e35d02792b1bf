"""Small networks that the tests of the dependency graph and the pruner share."""

from __future__ import annotations

import torch
from torch import nn


class Expert(nn.Module):
    """A gated MLP, as in the guide's layout."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MoEBlock(nn.Module):
    """Top-k of listed experts, a router and a shared expert; data decides which expert runs."""

    def __init__(self, hidden: int = 8, inner: int = 6, experts: int = 4, top_k: int = 2, shared: int = 10) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList([Expert(hidden, inner) for _ in range(experts)])
        self.shared_expert = Expert(hidden, shared) if shared else None
        self.top_k = top_k

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(self.top_k)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, slot, None])
        return out + (self.shared_expert(x) if self.shared_expert is not None else 0)


class TinyMoE(nn.Module):
    """Input layer, residual MoE blocks, output layer; inputs ``[tokens, 5]``."""

    def __init__(self, blocks: int = 1, **block) -> None:
        super().__init__()
        hidden = block.get("hidden", 8)
        self.embed = nn.Linear(5, hidden)
        self.layers = nn.ModuleList([MoEBlock(**block) for _ in range(blocks)])
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Chain(nn.Module):
    """``depth`` linear layers one after the other, nothing else."""

    def __init__(self, depth: int = 3, width: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Rotary(nn.Module):
    """Slices and concatenates over and over, as rotary embeddings do: where stock Torch-Pruning never ends."""

    def __init__(self, width: int = 8, turns: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)
        self.turns = turns

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.turns):
            half = x.shape[-1] // 2
            x = x + torch.cat([-x[..., half:], x[..., :half]], -1)
        return self.last(x)


def build(kind: type[nn.Module], *args, seed: int = 0, **kwargs) -> nn.Module:
    """A network with seeded weights, in evaluation mode."""
    torch.manual_seed(seed)
    return kind(*args, **kwargs).eval()

"""Small mixtures of experts that are right and out of the ordinary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

IDS = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(0))


class Constant(nn.Module):
    """An expert without inner channels: a mixture of its input and a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(width))
        self.mix = nn.Linear(width, 2, bias=False)

    def forward(self, x):
        shares = self.mix(x).softmax(-1)
        return shares[:, :1] * x + shares[:, 1:] * self.value


def mlp(width: int, inner: int, out: int | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, out or width))


class Mixture(nn.Module):
    """The two best of a list of experts, by a linear router."""

    def __init__(self, width: int, experts: list[nn.Module], out: int | None = None) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.router = nn.Linear(width, len(experts), bias=False)
        self.out = out or width

    def scores(self, x):
        return self.router(x).softmax(-1)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.scores(flat).topk(2, -1)
        out = flat.new_zeros(len(flat), self.out)
        for number, expert in enumerate(self.experts):
            token, place = (chosen == number).nonzero(as_tuple=True)
            if token.numel():
                out = out.index_add(0, token, expert(flat[token]) * weights[token, place, None])
        return out.view(*x.shape[:-1], self.out)


class WithDropout(nn.ModuleDict):
    """Experts by name beside a dropout that they all use."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__({f"expert_{n}": mlp(width, inner) for n in range(count)})
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, weights):
        out = sum(self[f"expert_{n}"](x) * weights[..., n, None] for n in range(weights.shape[-1]))
        return self.dropout(out)


class ByName(nn.Module):
    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.experts = WithDropout(width, inner, count)
        self.router = nn.Linear(width, count)

    def forward(self, x):
        return self.experts(x, self.router(x).softmax(-1))


class Latent(nn.Module):
    """Stacked cores between two projections that all experts share, all in one module."""

    def __init__(self, width: int, rank: int, count: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.down = nn.Linear(width, rank, bias=False)
        self.first = nn.Parameter(torch.randn(count, rank, rank) * 0.4)
        self.second = nn.Parameter(torch.randn(count, rank, rank) * 0.4)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x):
        weights, low = self.gate(x).softmax(-1), self.down(x)
        inner = F.gelu(torch.einsum("bti,eij->betj", low, self.first).permute(0, 2, 1, 3))
        return self.up((torch.einsum("btei,eij->btej", inner, self.second) * weights[..., None]).sum(2))


class Corrected(Mixture):
    """A choice of experts by corrected scores; the correction lies in a module of its own, as ``[1, experts]``."""

    def __init__(self, width: int, experts: list[nn.Module]) -> None:
        super().__init__(width, experts)
        self.statistics = nn.Module()
        self.statistics.correction = nn.Parameter(torch.randn(1, len(experts)) * 0.1, requires_grad=False)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scores = self.scores(flat)
        chosen = (scores + self.statistics.correction).topk(2, -1).indices
        weights = scores.gather(-1, chosen)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (chosen == number).nonzero(as_tuple=True)
            if token.numel():
                out = out.index_add(0, token, expert(flat[token]) * weights[token, place, None])
        return out.view_as(x)


class Wrapped(nn.Module):
    """DeepSpeed's way: the list of experts inside a module named as experts."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.Module()
        self.experts.local_experts = nn.ModuleList(mlp(width, inner) for _ in range(count))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return sum(e(x) * weights[..., n, None] for n, e in enumerate(self.experts.local_experts))


class InParameterLists(nn.Module):
    """The experts' matrices in two lists of parameters."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.Module()
        self.experts.ups = nn.ParameterList(torch.randn(inner, width) * 0.3 for _ in range(count))
        self.experts.downs = nn.ParameterList(torch.randn(width, inner) * 0.3 for _ in range(count))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        pairs = zip(self.experts.ups, self.experts.downs, strict=True)
        return sum(F.linear(F.gelu(F.linear(x, u)), d) * weights[..., n, None] for n, (u, d) in enumerate(pairs))


class Model(nn.Module):
    """Words, one block, answer; ``kinds`` gives a second embedding of the same width, of two kinds of sentences."""

    def __init__(self, block: nn.Module, width: int = 16, kinds: bool = False, out: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(40, width)
        self.kinds = nn.Embedding(5, width) if kinds else None
        self.shift = nn.Linear(width, width) if kinds else None
        self.norm = nn.LayerNorm(width)
        self.block = block
        self.residual = out is None
        self.answer = nn.Linear(out or width, 7)

    def forward(self, ids, kind=None):
        x = self.words(ids)
        y = self.block(self.norm(x))
        if self.kinds is not None:
            y = y * F.silu(self.shift(self.kinds(kind)))[:, None]
        return self.answer(x + y if self.residual else y)

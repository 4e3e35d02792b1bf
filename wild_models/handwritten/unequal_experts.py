"""After mixtures of experts of different sizes: widths in a tuple, batch norms inside, one expert is the identity."""

import torch
from torch import nn


def make_expert(dim, width):
    if width == 0:
        return nn.Identity()
    return nn.Sequential(nn.Linear(dim, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Linear(width, dim))


class UnequalMoE(nn.Module):
    def __init__(self, dim, widths):
        super().__init__()
        self.widths = tuple(widths)
        self.total_width = sum(widths)
        self.register_buffer("costs", torch.tensor(widths, dtype=torch.float32) / self.total_width)
        self.experts = nn.ModuleList(make_expert(dim, w) for w in widths)
        self.router = nn.Sequential(nn.Linear(dim, dim // 2), nn.Tanh(), nn.Linear(dim // 2, len(widths)))
        self.penalty = 0.0

    def forward(self, x):
        probs = self.router(x).softmax(-1)
        self.penalty = (probs * self.costs).sum(-1).mean()
        best, index = probs.topk(2, dim=-1)
        weights = torch.zeros_like(probs).scatter(-1, index, best)
        return sum(weights[:, n : n + 1] * expert(x) for n, expert in enumerate(self.experts))


class Tabular(nn.Module):
    def __init__(self, numeric=6, cardinalities=(5, 9, 4), dim=28, depth=2):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(c, 4) for c in cardinalities)
        self.stem = nn.Linear(numeric + 4 * len(cardinalities), dim)
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(depth))
        self.blocks = nn.ModuleList(UnequalMoE(dim, (12, 20, 32, 0)) for _ in range(depth))
        self.head = nn.Sequential(nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, 2))

    def forward(self, numbers, categories):
        parts = [table(categories[:, n]) for n, table in enumerate(self.tables)]
        x = self.stem(torch.cat([numbers, *parts], dim=1))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    return Tabular(), (torch.randn(16, 6), torch.randint(0, 4, (16, 3)))

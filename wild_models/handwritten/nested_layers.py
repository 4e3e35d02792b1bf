"""Experts that are lists of layers in a list, run layer by layer; usage counts kept in a buffer at every forward."""

import torch
from torch import nn


class MoE(nn.Module):
    def __init__(self, sizes=(24, 40, 24), experts=3):
        super().__init__()
        self.sizes = sizes
        self.experts = nn.ModuleList(
            [nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]) for _ in range(experts)]
        )
        self.gating = nn.Linear(sizes[0], experts)
        self.register_buffer("usage", torch.zeros(experts))

    def forward(self, x):
        assert x.size(-1) == self.sizes[0]
        weights = self.gating(x).softmax(-1)
        best = weights.argmax(-1)
        self.usage += torch.bincount(best.flatten(), minlength=len(self.experts))
        outputs = []
        for layers in self.experts:
            y = x
            for number, layer in enumerate(layers):
                y = layer(y)
                if number < len(layers) - 1:
                    y = torch.tanh(y)
            outputs.append(y)
        return (torch.stack(outputs, -1) * weights.unsqueeze(-2)).sum(-1)


class Forecaster(nn.Module):
    """Some steps ahead of a series, from a window of several signals."""

    def __init__(self, signals=4, width=24, window=10, ahead=3):
        super().__init__()
        self.project = nn.Linear(signals, width)
        self.norm = nn.LayerNorm(width)
        self.moe = MoE((width, 40, width))
        self.mix = nn.Linear(window, ahead)
        self.read = nn.Linear(width, signals)

    def forward(self, series):
        x = self.project(series)
        x = x + self.moe(self.norm(x))
        return self.read(self.mix(x.transpose(1, 2)).transpose(1, 2))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Forecaster(), torch.randn(3, 10, 4)

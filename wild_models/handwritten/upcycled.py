"""After sparse upcycling: copies of a trained MLP become experts, kept by name in a ``ModuleDict``."""

import copy

import torch
import torch.nn as nn


class DenseMLP(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.up = nn.Linear(d, h)
        self.act = nn.ReLU()
        self.down = nn.Linear(h, d)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class UpcycledMoE(nn.Module):
    def __init__(self, mlp, d, n=3, k=2):
        super().__init__()
        self.expert_bank = nn.ModuleDict({f"expert_{i}": copy.deepcopy(mlp) for i in range(n)})
        with torch.no_grad():
            for p in self.expert_bank.parameters():
                p.add_(0.1 * torch.randn_like(p))
        self.router = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, n, bias=False))
        self.k = k

    def forward(self, x):
        probs = self.router(x).softmax(-1)
        top, idx = probs.topk(self.k, -1)
        top = top / top.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for i, key in enumerate(self.expert_bank):
            weight = (top * (idx == i)).sum(-1, keepdim=True)
            y = y + weight * self.expert_bank[key](x)
        return y


class PatchMixer(nn.Module):
    """A small MLP-Mixer with experts in place of the second MLP."""

    def __init__(self, tokens=9, d=32, classes=6):
        super().__init__()
        self.stem = nn.Linear(27, d)
        self.token_norm = nn.LayerNorm(d)
        self.token_mlp = DenseMLP(tokens, 18)
        self.channel_norm = nn.LayerNorm(d)
        self.channel_mlp = UpcycledMoE(DenseMLP(d, 64), d)
        self.out_norm = nn.LayerNorm(d)
        self.fc = nn.Linear(d, classes)

    def forward(self, patches):
        x = self.stem(patches)
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channel_mlp(self.channel_norm(x))
        return self.fc(self.out_norm(x).mean(dim=1))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return PatchMixer(), torch.randn(2, 9, 27)

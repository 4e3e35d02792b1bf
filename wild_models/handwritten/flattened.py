"""Experts side by side in two linear layers ``[experts * hidden, model]``, viewed apart and weighed."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class FlatMoE(nn.Module):
    def __init__(self, d_model, d_ff, n_experts):
        super().__init__()
        self.n_experts = n_experts
        self.gate = nn.Linear(d_model, n_experts, bias=False)
        self.fc1 = nn.Linear(d_model, n_experts * d_ff)
        self.fc2 = nn.Linear(n_experts * d_ff, d_model)

    def forward(self, x):
        weights, index = self.gate(x).softmax(-1).topk(2, dim=-1)
        mask = torch.zeros_like(x[..., : self.n_experts]).scatter(-1, index, weights)
        hidden = F.relu(self.fc1(x))
        hidden = hidden.view(*x.shape[:-1], self.n_experts, -1) * mask.unsqueeze(-1)
        return self.fc2(hidden.flatten(-2))


class TabularNet(nn.Module):
    """A tower over numbers and categories."""

    def __init__(self, numbers=8, categories=12, d_model=32, d_ff=16, n_experts=4, depth=2):
        super().__init__()
        self.num = nn.Linear(numbers, d_model)
        self.cat = nn.Embedding(categories, d_model)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(depth))
        self.moes = nn.ModuleList(FlatMoE(d_model, d_ff, n_experts) for _ in range(depth))
        self.head = nn.Linear(d_model, 1)

    def forward(self, numbers, category):
        x = self.num(numbers) + self.cat(category)
        for norm, moe in zip(self.norms, self.moes, strict=True):
            x = x + moe(norm(x))
        return self.head(x).squeeze(-1)


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    return TabularNet(), (torch.randn(6, 8), torch.randint(0, 12, (6,)))

"""After graph mixtures (GMoE): experts of one and of two hops over an adjacency matrix, noisy gates with a buffer."""

import torch
import torch.nn.functional as F
from torch import nn


class GCNConv(nn.Module):
    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.lin = nn.Linear(in_dim, out_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, x, adj):
        return adj @ self.lin(x) + self.bias


class GraphMoE(nn.Module):
    def __init__(self, dim, hidden, num_experts=4, k=2, coef=0.01):
        super().__init__()
        self.num_experts, self.k, self.loss_coef = num_experts, k, coef
        self.ffns_in = nn.ModuleList([GCNConv(dim, hidden) for _ in range(num_experts)])
        self.ffns_out = nn.ModuleList([GCNConv(hidden, dim) for _ in range(num_experts)])
        self.w_gate = nn.Parameter(torch.randn(dim, num_experts) * 0.3)
        self.w_noise = nn.Parameter(torch.zeros(dim, num_experts))
        self.register_buffer("mean", torch.tensor([0.0]))
        self.register_buffer("std", torch.tensor([1.0]))

    def gates(self, x):
        logits = x @ self.w_gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(x @ self.w_noise) + 1e-2)
        top, index = logits.softmax(-1).topk(self.k, dim=-1)
        gates = torch.zeros_like(logits).scatter(1, index, top / (top.sum(-1, keepdim=True) + 1e-6))
        importance = gates.sum(0)
        return gates, self.loss_coef * importance.var() / (importance.mean() ** 2 + 1e-10)

    def forward(self, x, adj):
        gates, loss = self.gates(x)
        out = []
        for i in range(self.num_experts):
            hop = adj if i % 2 == 0 else adj @ adj
            out.append(self.ffns_out[i](F.relu(self.ffns_in[i](x, adj)), hop))
        out = torch.stack(out, dim=1)
        return (gates.unsqueeze(-1) * out).sum(1), loss


class NodeClassifier(nn.Module):
    def __init__(self, features=10, dim=24, classes=4):
        super().__init__()
        self.encoder = nn.Linear(features, dim)
        self.layers = nn.ModuleList([GraphMoE(dim, 32), GraphMoE(dim, 32)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.classify = nn.Linear(dim, classes)

    def forward(self, x, adj):
        h, total = self.encoder(x), 0
        for layer, norm in zip(self.layers, self.norms, strict=True):
            update, loss = layer(norm(h), adj)
            h, total = h + update, total + loss
        return {"scores": self.classify(h), "balance": total}


def make():
    """The model and its inputs."""
    torch.manual_seed(0)
    edges = (torch.rand(12, 12) < 0.3).float() + torch.eye(12)
    return NodeClassifier(), (torch.randn(12, 10), edges / edges.sum(1, keepdim=True))

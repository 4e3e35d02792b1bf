"""After pretraining frameworks: the router counts tokens in a buffer that is not saved, a bias balances, no autocast."""

import torch
import torch.nn.functional as F
from torch import nn


def bias_swiglu(y: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    y = y + bias
    a, b = torch.chunk(y, 2, -1)
    return F.silu(a) * b


class GroupedExperts(nn.Module):
    def __init__(self, dim, hidden, count):
        super().__init__()
        self.count = count
        self.weight1 = nn.Parameter(torch.randn(count, dim, 2 * hidden) * 0.2)
        self.bias1 = nn.Parameter(torch.randn(count, 2 * hidden) * 0.1)
        self.weight2 = nn.Parameter(torch.randn(count, hidden, dim) * 0.2)

    def forward(self, x, offsets):
        out, start = [], 0
        for e, end in enumerate(offsets.tolist()):
            h = bias_swiglu(x[start:end] @ self.weight1[e], self.bias1[e])
            out.append(h @ self.weight2[e])
            start = end
        return torch.cat(out)


class Router(nn.Module):
    def __init__(self, dim, count, k):
        super().__init__()
        self.k = k
        self.linear = nn.Linear(dim, count, bias=False)
        self.register_buffer("tokens_per_expert", torch.zeros(count), persistent=False)
        self.register_buffer("expert_bias", torch.zeros(count))

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            scores = torch.sigmoid(self.linear(x.float()))
        index = torch.topk(scores + self.expert_bias, self.k, dim=-1, sorted=False).indices
        gates = scores.gather(1, index)
        count = torch.histc(index.view(-1).float(), bins=scores.shape[1], min=0, max=scores.shape[1])
        with torch.no_grad():
            self.tokens_per_expert.add_(count)
        return gates / (gates.sum(-1, keepdim=True) + 1e-20), index, count.long()


class TitanMoE(nn.Module):
    def __init__(self, dim, hidden, count=5, k=2):
        super().__init__()
        self.router = Router(dim, count, k)
        self.experts = GroupedExperts(dim, hidden, count)
        self.shared_expert = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.SiLU(), nn.Linear(hidden, dim, bias=False)
        )
        self.k = k

    def forward(self, x):
        b, t, d = x.shape
        x = x.view(-1, d)
        gates, index, count = self.router(x)
        order = torch.argsort(index.view(-1), stable=True)
        tokens = order // self.k
        routed = self.experts(x[tokens], count.cumsum(0)) * gates.view(-1, 1)[order]
        return (self.shared_expert(x).scatter_add(0, tokens[:, None].expand(-1, d), routed)).view(b, t, d)


class Stream(nn.Module):
    def __init__(self, dim, heads=4):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(dim // heads), nn.RMSNorm(dim // heads)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.moe = TitanMoE(dim, 28)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.moe(self.norm2(x))


class Model(nn.Module):
    def __init__(self, vocab=48, dim=32, layers=2):
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleDict({str(n): Stream(dim) for n in range(layers)})
        self.norm = nn.RMSNorm(dim)
        self.output = nn.Linear(dim, vocab, bias=False)

    def forward(self, tokens):
        h = self.tok_embeddings(tokens)
        for layer in self.layers.values():
            h = layer(h)
        return self.output(self.norm(h))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Model(), torch.randint(0, 48, (2, 12))

"""After sigma-MoE: keys [experts, model, size], values [experts, size, model], scores by sigmoid from a bare matrix."""

import math

import torch
import torch.nn.functional as F


class MoE(torch.nn.Module):
    def __init__(self, dmodel, n_experts, expert_size, k, dropout=0.0):
        super().__init__()
        self.k_dim = dmodel
        self.v_dim = dmodel
        self.n_experts = n_experts
        self.expert_size = expert_size
        self.size = n_experts * expert_size
        self.dropout = dropout
        self.k_vec_dim = self.k_dim
        self.n_heads = k
        self.keys = torch.nn.Parameter(torch.empty(n_experts, self.k_vec_dim, expert_size))
        self.values = torch.nn.Parameter(torch.empty(n_experts, expert_size, self.v_dim))
        self.expert_sel = torch.nn.Parameter(torch.empty(n_experts, self.k_vec_dim))
        torch.nn.init.normal_(self.keys, std=dmodel**-0.5)
        torch.nn.init.normal_(self.values, std=self.size**-0.5 * 2)
        torch.nn.init.normal_(self.expert_sel, std=self.k_vec_dim**-0.5)

    def forward(self, input):
        sel = F.linear(input, self.expert_sel, None)
        sel_val, sel_index = torch.sigmoid(sel).topk(self.n_heads, dim=-1, sorted=False)
        out = 0
        for i in range(self.n_heads):
            keys, values = self.keys[sel_index[..., i]], self.values[sel_index[..., i]]
            scores = torch.einsum("...d,...ds->...s", input, keys)
            scores = F.relu(scores) * sel_val[..., i, None]
            out = out + torch.einsum("...s,...sd->...d", scores, values)
        return out


class RelativeAttention(torch.nn.Module):
    """Attention with a bias for each distance."""

    def __init__(self, dim, heads, window=16):
        super().__init__()
        self.heads, self.projection_size = heads, dim // heads
        self.q = torch.nn.Linear(dim, dim, bias=False)
        self.kv = torch.nn.Linear(dim, 2 * dim, bias=False)
        self.out = torch.nn.Linear(dim, dim, bias=False)
        self.distance = torch.nn.Parameter(torch.randn(heads, window) * 0.1)

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.projection_size).transpose(1, 2)
        k, v = self.kv(x).view(b, t, self.heads, 2 * self.projection_size).transpose(1, 2).chunk(2, -1)
        place = torch.arange(t, device=x.device)
        gap = place[:, None] - place[None, :]
        bias = self.distance[:, gap.clamp(min=0)]
        scores = (q @ k.transpose(-1, -2) / math.sqrt(self.projection_size) + bias).masked_fill(gap < 0, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


class Transformer(torch.nn.Module):
    def __init__(self, vocab=60, dim=32, heads=4, layers=2):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, dim)
        self.attentions = torch.nn.ModuleList(RelativeAttention(dim, heads) for _ in range(layers))
        self.pkms = torch.nn.ModuleList(MoE(dim, n_experts=5, expert_size=12, k=2) for _ in range(layers))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(dim) for _ in range(2 * layers))
        self.out = torch.nn.Linear(dim, vocab)

    def forward(self, x):
        x = self.embedding(x)
        for i, (attention, moe) in enumerate(zip(self.attentions, self.pkms, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + moe(self.norms[2 * i + 1](x))
        return self.out(x)


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Transformer(), torch.randint(0, 60, (2, 12))

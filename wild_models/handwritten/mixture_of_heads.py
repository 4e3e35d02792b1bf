"""After SwitchHead: experts in the value and output projections of each head, chosen by two selections."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class SwitchHeadAttention(nn.Module):
    def __init__(self, d_model, n_heads, n_experts, k=2):
        super().__init__()
        self.n_heads, self.n_experts, self.k = n_heads, n_experts, k
        self.d_head = d_model // n_heads
        self.q = nn.Linear(d_model, n_heads * self.d_head, bias=False)
        self.key = nn.Linear(d_model, n_heads * self.d_head, bias=False)
        self.v = nn.Parameter(torch.randn(n_heads * n_experts, d_model, self.d_head) * 0.2)
        self.o = nn.Parameter(torch.randn(n_heads * n_experts, self.d_head, d_model) * 0.2)
        self.sel_v = nn.Linear(d_model, n_heads * n_experts, bias=False)
        self.sel_o = nn.Linear(d_model, n_heads * n_experts, bias=False)

    def choose(self, logits):
        logits = logits.view(*logits.shape[:-1], self.n_heads, self.n_experts)
        value, index = logits.sigmoid().topk(self.k, dim=-1)
        return torch.zeros_like(logits).scatter(-1, index, value)

    def forward(self, x):
        b, t, d = x.shape
        q = self.q(x).view(b, t, self.n_heads, self.d_head).transpose(1, 2)
        k = self.key(x).view(b, t, self.n_heads, self.d_head).transpose(1, 2)
        stack = self.v.view(self.n_heads, self.n_experts, d, self.d_head)
        v = torch.einsum("btd,hedf,bthe->bhtf", x, stack, self.choose(self.sel_v(x)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        stack = self.o.view(self.n_heads, self.n_experts, self.d_head, d)
        return torch.einsum("bhtf,hefd,bthe->btd", out, stack, self.choose(self.sel_o(x)))


class Model(nn.Module):
    def __init__(self, vocab=50, d_model=32, n_heads=2, n_experts=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = SwitchHeadAttention(d_model, n_heads, n_experts)
        self.ff = nn.Sequential(nn.Linear(d_model, 64), nn.GELU(), nn.Linear(64, d_model))
        self.head = nn.Linear(d_model, vocab)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        return self.head(x + self.ff(self.norm2(x)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return Model(), torch.randint(0, 50, (2, 10))

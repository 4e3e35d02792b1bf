"""After MoEUT: a group of layers runs again and again over depth, with sigma-MoE, no norm on the residual path."""

import torch
import torch.nn.functional as F
from torch import nn


class SigmaMoE(nn.Module):
    def __init__(self, d_model, n_experts, expert_size, k):
        super().__init__()
        self.k_dim, self.n_experts, self.expert_size, self.k_vec_dim, self.v_dim = (
            d_model,
            n_experts,
            expert_size,
            d_model,
            d_model,
        )
        self.n_heads = k
        self.keys = nn.Parameter(torch.randn(n_experts, d_model, expert_size) * 0.2)
        self.values = nn.Parameter(torch.randn(n_experts, expert_size, d_model) * 0.2)
        self.expert_sel = nn.Parameter(torch.randn(n_experts, d_model) * 0.5)

    def forward(self, x, sel_input):
        affinity = torch.sigmoid(F.linear(sel_input, self.expert_sel))
        val, index = affinity.topk(self.n_heads, dim=-1, sorted=False)
        gate = torch.zeros_like(affinity).scatter(-1, index, val)
        scores = F.relu(torch.einsum("btd,edh->bteh", x, self.keys))
        return torch.einsum("bteh,ehd,bte->btd", scores, self.values, gate)


class SwitchHeadCore(nn.Module):
    def __init__(self, d_model, n_heads, n_experts, k=2, projection=None):
        super().__init__()
        self.n_heads, self.n_experts, self.k = n_heads, n_experts, k
        self.projection_size = projection or d_model // n_heads
        self.q = nn.Linear(d_model, self.projection_size * n_heads, bias=False)
        self.kk = nn.Linear(d_model, self.projection_size * n_heads, bias=False)
        self.v = nn.Parameter(torch.randn(n_heads * n_experts, d_model, self.projection_size) * 0.2)
        self.o = nn.Parameter(torch.randn(n_heads * n_experts, self.projection_size, d_model) * 0.2)
        self.sel_v = nn.Parameter(torch.randn(n_heads * n_experts, d_model) * 0.5)

    def forward(self, x):
        b, t, _ = x.shape
        q, k = (y.view(b, t, self.n_heads, self.projection_size).transpose(1, 2) for y in (self.q(x), self.kk(x)))
        sel = torch.sigmoid(F.linear(x, self.sel_v)).view(b, t, self.n_heads, self.n_experts)
        val, index = sel.topk(self.k, dim=-1)
        sel = torch.zeros_like(sel).scatter(-1, index, val)
        v = torch.einsum("btd,edp->btep", x, self.v).view(b, t, self.n_heads, self.n_experts, -1)
        v = (v * sel.unsqueeze(-1)).sum(3).transpose(1, 2)
        res = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        o = self.o.view(self.n_heads, self.n_experts, self.projection_size, -1)
        return torch.einsum("bthp,hepd,bthe->btd", res, o, sel)


class MoEUTLayer(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.attention = SwitchHeadCore(d_model, 2, 3)
        self.ffn = SigmaMoE(d_model, 6, 16, 2)
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.ffn(x, self.ln2(x))


class MoEUT(nn.Module):
    def __init__(self, vocab=48, d_model=32, n_layers=4, group_size=2):
        super().__init__()
        self.n_repeats = n_layers // group_size
        self.embedding = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList([MoEUTLayer(d_model) for _ in range(group_size)])
        self.out_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab)

    def forward(self, x):
        x = self.embedding(x)
        for _ in range(self.n_repeats):
            for layer in self.layers:
                x = layer(x)
        return self.lm_head(self.out_norm(x))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return MoEUT(), torch.randint(0, 48, (2, 10))

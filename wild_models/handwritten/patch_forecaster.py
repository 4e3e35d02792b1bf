"""After patch transformers for series: overlapping patches, a long table of positions, a whole series goes to experts."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class FrequencyExpert(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.gate, self.value, self.out = nn.Linear(d, h), nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x):
        return self.out(torch.sigmoid(self.gate(x)) * self.value(x))


class SeriesBlock(nn.Module):
    def __init__(self, d, heads, h, n_exp):
        super().__init__()
        self.n_heads, self.d_head = heads, d // heads
        self.wqkv = nn.Linear(d, 3 * d)
        self.wo = nn.Linear(d, d)
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.router = nn.Linear(d, n_exp, bias=False)
        self.pool = nn.ModuleList(FrequencyExpert(d, h) for _ in range(n_exp))
        self.register_buffer("load", torch.zeros(n_exp))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.wqkv(self.ln1(x)).reshape(b, n, 3, self.n_heads, self.d_head).unbind(2)
        a = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(self.d_head)
        x = x + self.wo(torch.einsum("bhnm,bmhd->bnhd", a.softmax(-1), v).reshape(b, n, -1))
        z = self.ln2(x)
        p = torch.sigmoid(self.router(z.mean(1)))
        w, idx = p.topk(2, -1)
        w = w / w.sum(-1, keepdim=True)
        self.load.add_(F.one_hot(idx, p.shape[-1]).sum((0, 1)).to(self.load))
        out = torch.zeros_like(z)
        for i in range(b):
            for j in range(2):
                out[i] = out[i] + w[i, j] * self.pool[int(idx[i, j])](z[i])
        return x + out


class PatchForecaster(nn.Module):
    def __init__(self, d=32, patch=8, stride=4, horizon=12, n_exp=5):
        super().__init__()
        self.patch, self.stride = patch, stride
        self.embed = nn.Linear(patch, d)
        self.pos = nn.Parameter(torch.randn(1, 64, d) * 0.02)
        self.blocks = nn.ModuleList(SeriesBlock(d, 4, 40, n_exp) for _ in range(2))
        self.head = nn.Linear(11 * d, horizon)

    def forward(self, series):
        b, t, c = series.shape
        mu, sd = series.mean(1, keepdim=True), series.std(1, keepdim=True) + 1e-5
        x = ((series - mu) / sd).permute(0, 2, 1).reshape(b * c, t)
        x = self.embed(x.unfold(-1, self.patch, self.stride))
        x = x + self.pos[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1)).view(b, c, -1).permute(0, 2, 1) * sd + mu


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return PatchForecaster(), torch.randn(3, 48, 2)

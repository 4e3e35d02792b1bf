"""One matrix for all experts; a loop takes slices by number: rows ``e * width`` to ``(e + 1) * width``."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class SlicedMoE(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        rows = cfg["experts"] * cfg["ff"]
        self.up = nn.Parameter(torch.randn(rows, cfg["dim"]) * 0.2)
        self.gate = nn.Parameter(torch.randn(rows, cfg["dim"]) * 0.2)
        self.down = nn.Parameter(torch.randn(rows, cfg["dim"]) * 0.2)
        self.router = nn.Linear(cfg["dim"], cfg["experts"], bias=False)

    def forward(self, x):
        ff = self.cfg["ff"]
        weights, chosen = self.router(x).softmax(-1).topk(self.cfg["top_k"], -1)
        y = torch.zeros_like(x)
        for e in range(self.cfg["experts"]):
            rows = slice(e * ff, (e + 1) * ff)
            h = F.silu(x @ self.gate[rows].t()) * (x @ self.up[rows].t())
            y = y + (h @ self.down[rows]) * (weights * (chosen == e)).sum(-1, keepdim=True)
        return y


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.qkv = nn.Linear(cfg["dim"], 3 * cfg["dim"], bias=False)
        self.o = nn.Linear(cfg["dim"], cfg["dim"], bias=False)

    def forward(self, x):
        b, t, c = x.shape
        h = self.cfg["heads"]
        q, k, v = (z.view(b, t, h, c // h).transpose(1, 2) for z in self.qkv(x).split(self.cfg["dim"], -1))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))


class TinyLM(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.wte = nn.Embedding(cfg["vocab"], cfg["dim"])
        self.blocks = nn.ModuleList()
        for _ in range(cfg["depth"]):
            self.blocks.append(
                nn.ModuleList([nn.LayerNorm(cfg["dim"]), Attention(cfg), nn.LayerNorm(cfg["dim"]), SlicedMoE(cfg)])
            )
        self.ln = nn.LayerNorm(cfg["dim"])

    def forward(self, ids):
        x = self.wte(ids)
        for ln1, attn, ln2, moe in self.blocks:
            x = x + attn(ln1(x))
            x = x + moe(ln2(x))
        return self.ln(x) @ self.wte.weight.T


def make():
    """The model and its input."""
    torch.manual_seed(0)
    cfg = {"vocab": 60, "dim": 32, "heads": 4, "ff": 24, "experts": 4, "top_k": 2, "depth": 2}
    return TinyLM(cfg), torch.randint(0, 60, (2, 12))

"""Experts in groups [groups, experts, ...], computed for every token by einsum; tokens cut into groups of channels."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class GroupedMoE(nn.Module):
    """Every head of the input has experts of its own, as in multi-head MoE."""

    def __init__(self, dim, groups=2, experts=3, hidden=20):
        super().__init__()
        self.groups = groups
        self.head = dim // groups
        self.multi_head = nn.Linear(dim, dim)
        self.merge = nn.Linear(dim, dim)
        self.route = nn.Parameter(torch.randn(groups, self.head, experts) * 0.5)
        self.w_in = nn.Parameter(torch.randn(groups, experts, self.head, hidden) * 0.2)
        self.w_out = nn.Parameter(torch.randn(groups, experts, hidden, self.head) * 0.2)

    def forward(self, x):
        b, t, _ = x.shape
        sub = self.multi_head(x).view(b, t, self.groups, self.head)
        gate = torch.einsum("btgd,gde->btge", sub, self.route).softmax(-1)
        hidden = F.gelu(torch.einsum("btgd,gedh->btgeh", sub, self.w_in))
        out = torch.einsum("btgeh,gehd,btge->btgd", hidden, self.w_out, gate)
        return self.merge(out.reshape(b, t, -1))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.pre = nn.LayerNorm(dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.post = nn.LayerNorm(dim)
        self.moe = GroupedMoE(dim)

    def forward(self, x):
        x = x + self.gru(self.pre(x))[0]
        return x + self.moe(self.post(x))


class CharModel(nn.Module):
    def __init__(self, chars=40, dim=24):
        super().__init__()
        self.embed = nn.Embedding(chars, dim)
        self.block = Block(dim)
        self.out = nn.Linear(dim, chars)

    def forward(self, chars):
        return self.out(self.block(self.embed(chars)))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return CharModel(), torch.randint(0, 40, (2, 10))

"""After mixtures of recurrent experts (Shazeer 2017 in reverse): GRUs are the experts, noisy top-k gate in bare matrices."""

import torch
import torch.nn.functional as F
from torch import nn


class NoisyTopK(nn.Module):
    def __init__(self, input_size, num_experts, k=2):
        super().__init__()
        self.k, self.num_experts = k, num_experts
        self.w_gate = nn.Parameter(torch.randn(input_size, num_experts) * 0.5)
        self.w_noise = nn.Parameter(torch.zeros(input_size, num_experts))
        self.register_buffer("mean", torch.tensor([0.0]))
        self.register_buffer("std", torch.tensor([1.0]))

    def forward(self, x):
        clean = x @ self.w_gate
        if self.training:
            clean = clean + torch.randn_like(clean) * (F.softplus(x @ self.w_noise) + 1e-2)
        top, index = clean.topk(self.k, dim=1)
        return torch.zeros_like(clean).scatter(1, index, top.softmax(1))


class RecurrentExpert(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.rnn = nn.GRU(dim, hidden, batch_first=True)
        self.bn = nn.BatchNorm1d(hidden)
        self.proj = nn.Linear(hidden, dim)

    def forward(self, x):
        out, last = self.rnn(x)
        return self.proj(self.bn(out.transpose(1, 2)).transpose(1, 2)) + 0 * last.sum()


class SensorNet(nn.Module):
    def __init__(self, sensors=7, dim=24, hidden=20, num_experts=4, classes=5):
        super().__init__()
        self.conv = nn.Conv1d(sensors, dim, 3, padding=1)
        self.gating = NoisyTopK(dim, num_experts)
        self.experts = nn.ModuleList([RecurrentExpert(dim, hidden) for _ in range(num_experts)])
        self.pool = nn.AdaptiveAvgPool1d(2)
        self.fc = nn.Linear(dim * 2, classes)

    def forward(self, x):
        h = self.conv(x).transpose(1, 2)
        gates = self.gating(h.mean(1))
        out = torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            rows = gates[:, i].nonzero().squeeze(1)
            if rows.numel():
                out = out.index_add(0, rows, expert(h[rows]) * gates[rows, i, None, None])
        return self.fc(self.pool((h + out).transpose(1, 2)).flatten(1))


def make():
    """The model and its input."""
    torch.manual_seed(0)
    return SensorNet(), torch.randn(6, 7, 12)

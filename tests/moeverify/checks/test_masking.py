"""Norms of the masked reference see the kept channels only."""

import numpy as np
import torch
from torch import nn

from moeverify.checks.kept import Kept
from moeverify.checks.masking import hold_channels


class GroupNormOfChannels(nn.Module):
    """RMS over each ``group_size`` neighbouring channels."""

    def __init__(self, channels, group_size):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels, dtype=torch.float64))
        self.group_size = group_size

    def forward(self, x):
        groups = x.unflatten(-1, (-1, self.group_size))
        return (groups / groups.pow(2).mean(-1, keepdim=True).sqrt()).flatten(-2) * self.weight


def test_a_grouped_norm_keeps_its_groups():
    torch.manual_seed(0)
    model = nn.ModuleDict({"norm": GroupNormOfChannels(12, 4)})
    kept = np.array([0, 1, 3, 4, 5, 7, 8, 9, 11])  # one of each four is gone
    x = torch.randn(2, 12, dtype=torch.float64)
    expected = GroupNormOfChannels(9, 3)
    expected.weight = nn.Parameter(model["norm"].weight.detach()[kept])
    hold_channels(model, {("norm.weight", 0): Kept(kept, True)})
    assert torch.equal(model["norm"](x)[:, kept], expected(x[:, kept]))
    assert model["norm"](x).count_nonzero() == 18

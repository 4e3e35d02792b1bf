"""Norms of the masked reference see the kept channels only."""

import numpy as np
import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.masking import mask_norms


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
    mask_norms(model, {("norm.weight", 0): Kept(kept, True)})
    assert torch.equal(model["norm"](x)[:, kept], expected(x[:, kept]))
    assert model["norm"](x).count_nonzero() == 18


class Image(nn.Module):
    """Feature maps as wide as they have channels: the last dimension must not be taken for the channels."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), norm, nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of each place, as image models write it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "make", [lambda: nn.BatchNorm2d(8), lambda: LayerNorm2d(8), lambda: nn.InstanceNorm2d(8, affine=True)]
)
def test_norms_of_images_have_their_channels_in_the_second_dimension(make):
    torch.manual_seed(0)
    model = Image(make()).eval()
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if name.startswith("norm.") and values.is_floating_point():
            values.data = torch.rand(values.shape) + 0.5
    result = mv.verify(model, example_inputs=torch.randn(2, 3, 8, 8), checks=["masked-equivalence"])
    assert {v.check: v.message for v in result.verdicts if v.status != "pass"} == {}

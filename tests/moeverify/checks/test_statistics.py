"""Norms of the reference average over kept channels, wherever they are written; where not, nothing is concluded."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import moeverify as mv
from moeverify.verdict import Status


class Maps(nn.Module):
    """Feature maps as wide as they have channels, with a norm between two convolutions."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 1), norm, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.second(F.silu(self.norm(self.first(x))))


class ChannelsFirst(nn.Module):
    """A layer norm over the first dimension after the batch, by hand."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.randn(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        return (x - mean) / (spread + 1e-6).sqrt() * self.weight[:, None, None] + self.bias[:, None, None]


def shaken(norm):
    for parameter in norm.parameters():
        parameter.data = torch.rand(parameter.shape) + 0.5
    return norm


def keep(positions):
    """Keep these channels of ``first``, ``norm`` and ``second``."""

    def subject(model, inputs, *, pruning_ratio, seed):
        index = torch.tensor(positions)
        model.first.weight = nn.Parameter(model.first.weight.detach()[index].clone())
        model.first.bias = nn.Parameter(model.first.bias.detach()[index].clone())
        model.second.weight = nn.Parameter(model.second.weight.detach()[:, index].clone())
        model.first.out_channels = model.second.in_channels = len(index)
        for name, values in list(model.norm.named_parameters()) if isinstance(model.norm, nn.Module) else ():
            setattr(model.norm, name, nn.Parameter(values.detach()[index].clone()))
        if isinstance(model.norm, nn.GroupNorm):
            model.norm.num_channels = len(index)

    return subject


def verdict(model, inputs, subject):
    result = mv.verify(model.eval(), example_inputs=inputs, subject=subject, checks=["masked-equivalence"])
    return result.verdicts[-1]


@pytest.mark.parametrize(
    "make",
    [lambda: nn.GroupNorm(1, 8), lambda: nn.GroupNorm(2, 8), lambda: ChannelsFirst(8)],
    ids=["one", "two", "first"],
)
def test_norms_of_feature_maps(make):
    torch.manual_seed(0)
    found = verdict(Maps(shaken(make())), torch.randn(2, 3, 8, 8), keep([0, 3, 4, 6]))
    assert found.status is Status.PASS, found.message


def test_groups_that_lose_different_numbers_are_other_groups():
    torch.manual_seed(0)
    found = verdict(Maps(shaken(nn.GroupNorm(2, 8))), torch.randn(2, 3, 8, 8), keep([0, 1, 2, 4]))
    assert found.status is Status.FAIL


class Written(nn.Module):
    """A norm in the middle of a larger forward."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm = how

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def by_hand(x):
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def at_once(x):
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()


def in_pairs(x):
    groups = x.unflatten(-1, (2, -1))
    return (groups / groups.pow(2).mean(-1, keepdim=True).sqrt()).flatten(-2)


def each_row(x):
    return torch.vmap(lambda row: F.layer_norm(row, row.shape[-1:]))(x)


WRITTEN = [lambda x: F.layer_norm(x, x.shape[-1:]), lambda x: F.rms_norm(x, x.shape[-1:]), by_hand, at_once, each_row]


@pytest.mark.parametrize("how", WRITTEN, ids=["layer_norm", "rms_norm", "by hand", "var_mean", "vmap"])
def test_norms_that_are_written_out(how):
    torch.manual_seed(0)
    found = verdict(Written(how), torch.randn(5, 6), keep([0, 3, 4, 6]))
    assert found.status is Status.PASS, found.message

    def other_columns(model, inputs, *, pruning_ratio, seed):
        wrong = model.second.weight.detach()[:, [1, 2, 5, 7]].clone()
        keep([0, 3, 4, 6])(model, inputs, pruning_ratio=pruning_ratio, seed=seed)
        model.second.weight = nn.Parameter(wrong)

    found = verdict(Written(how), torch.randn(5, 6), other_columns)
    assert found.status is Status.FAIL, found.message


def test_a_norm_that_cannot_be_cut_down_convicts_nobody():
    torch.manual_seed(0)
    found = verdict(Written(in_pairs), torch.randn(5, 6), keep([0, 3, 4, 6]))
    assert found.status is Status.INCONCLUSIVE
    assert "could not be cut down in the reference" in found.message


class Conditioned(nn.Module):
    """A norm without weights; the embedding beside it has as many channels, but not those of the stream."""

    def __init__(self):
        super().__init__()
        self.first, self.labels = nn.Linear(6, 16), nn.Embedding(5, 16)
        self.scale, self.norm = nn.Linear(16, 16), nn.LayerNorm(16, elementwise_affine=False)
        self.last = nn.Linear(16, 3)

    def forward(self, x, label):
        return self.last(self.norm(self.first(x)) * (1 + self.scale(self.labels(label))))


def halves(model, inputs, *, pruning_ratio, seed):
    """The stream keeps other channels than the condition does."""
    with torch.no_grad():
        model.first.weight = nn.Parameter(model.first.weight[:8].clone())
        model.first.bias = nn.Parameter(model.first.bias[:8].clone())
        model.labels.weight = nn.Parameter(model.labels.weight[:, 8:].clone())
        model.scale.weight = nn.Parameter(model.scale.weight[:8, 8:].clone())
        model.scale.bias = nn.Parameter(model.scale.bias[:8].clone())
        model.last.weight = nn.Parameter(model.last.weight[:, :8].clone())
    model.norm.normalized_shape = (8,)


def test_an_embedding_of_the_same_width_is_no_residual_stream():
    torch.manual_seed(0)
    inputs = (torch.randn(4, 6), torch.tensor([0, 4, 2, 1]))
    found = verdict(Conditioned(), inputs, halves)
    assert found.status is Status.PASS, found.message

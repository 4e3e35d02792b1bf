"""Sizes that the model's own kernels run with."""

import warnings

import pytest
import torch
from torch import nn

import moeverify as mv
from moeverify.errors import UsageError
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.rounding import aligned, alignment

IDS = {"input_ids": torch.arange(32).view(2, 16)}


@pytest.mark.parametrize(("dtype", "multiple"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_grouped_experts_run_at_any_ratio(dtype, multiple):
    model = build_zoo("mixtral", dtype=dtype)
    model.set_experts_implementation("grouped_mm")
    assert alignment(model) == multiple
    mv.MoEPruner(model, IDS, pruning_ratio=0.45).step()
    sizes = (model.config.hidden_size, model.config.intermediate_size)
    assert all(size % multiple == 0 for size in sizes), sizes
    with torch.no_grad():
        assert model(**IDS).logits.isfinite().all()


def test_what_was_asked_is_kept_where_it_runs():
    model = build_zoo("mixtral", dtype=torch.bfloat16)
    model.set_experts_implementation("grouped_mm")
    with pytest.warns(UserWarning, match="multiples of 24 instead of 12"):
        assert aligned(model, 12) == 24
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aligned(model, 16) == 16
        assert aligned(model, None) == 8
        model.set_experts_implementation("eager")
        assert aligned(model, 12) == 12
        assert aligned(model, None) is None
    with pytest.raises(UsageError, match="positive number"):
        aligned(model, 0)


class Grouped(nn.Module):
    """A norm over four groups of channels, beside an adapter of rank three."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.Conv2d(16, 5, 1)
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 16, 1)

    def forward(self, x):
        return self.leave(self.norm(self.enter(x) + self.b(self.a(x))))


def test_small_classes_lose_fewer_channels_or_none():
    """A unit of four channels needs no rounding to four; three channels stay as they are."""
    torch.manual_seed(0)
    model, x = Grouped().eval(), torch.randn(2, 3, 4, 4)
    with pytest.warns(UserWarning, match="other is left alone, 1 were asked: no fewer are a multiple of round_to=4"):
        plan = mv.MoEPruner(model, x, pruning_ratio=0.5, round_to=4).step()
    assert (model.norm.num_channels, model.a.out_channels) == (8, 3)
    assert [entry["units"] for entry in plan.left_alone] == [3]
    assert model(x).shape == (2, 5, 4, 4)

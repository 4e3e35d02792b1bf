"""Sizes that the model's own kernels run with."""

import warnings

import pytest
import torch

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

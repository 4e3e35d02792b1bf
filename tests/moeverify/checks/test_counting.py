"""The evidence counts by itself, and comes to the pruner's numbers."""

import torch
from torch import nn

from moeverify.checks.evidence.counting import kernel_multiple, units_left
from moeverify.checks.evidence.folding import folded_values, with_constants
from moeverify.models.sources import load_source
from moeverify.pruning.choice.rounding import alignment, kept_units
from moeverify.pruning.plan.folds import Fold


def test_evidence_and_pruner_count_the_same_units():
    ratios = [n / 100 for n in range(100)] + [1 / 3, 2 / 3, 0.015625]
    assert [(s, r) for s in range(1, 300) for r in ratios if units_left(s, r) != kept_units(s, r)] == []


def test_both_know_the_kernel_alike():
    for dtype in (torch.float32, torch.bfloat16):
        model = load_source("zoo:mixtral", dtype=dtype).model
        for name in ("eager", "grouped_mm"):
            model.set_experts_implementation(name)
            assert kernel_multiple(model) == alignment(model)
    assert kernel_multiple(nn.Linear(3, 4)) == 1


def test_evidence_and_pruner_fold_constants_alike():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(5)
            self.scale = 4.0
            self.register_buffer("same", torch.tensor(4.0), persistent=False)
            self.register_buffer("saved", torch.tensor(4.0))

    model = Scaled()
    nn.init.normal_(model.norm.weight)
    fold = Fold("norm.weight", 0.75, 1.0)
    other = with_constants(model, [fold], {("", "scale"): (4.0, 3.0)})
    assert torch.equal(other.norm.weight, fold.of(model.norm.weight))
    assert torch.equal(folded_values(fold, model.norm.weight.bfloat16()), fold.of(model.norm.weight.bfloat16()))
    assert (other.scale, float(other.same), float(other.saved)) == (3.0, 3.0, 4.0)
    assert model.scale == 4.0

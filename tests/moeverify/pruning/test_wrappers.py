"""Models in wrappers: pruned through them, or refused with the remedy."""

import copy
import sys
import types

import pytest
import torch
from masked_original import difference
from small_nets import MoEBlock, build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.moe, self.head = nn.Linear(8, 8), MoEBlock(shared=0), nn.Linear(8, 3)

    def forward(self, x):
        x = self.enter(x).flatten(0, 1)
        return self.head(x + self.moe(x))


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model.moe.compile(backend="eager")
    model.head = torch.compile(model.head, backend="eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_inside, nn.DataParallel, lambda m: compiled(nn.DataParallel(m))])
def test_pruned_through(wrap):
    model = build(Net)
    original, wrapped = copy.deepcopy(model), wrap(model)
    pruner = mv.MoEPruner(wrapped, X, pruning_ratio=0.5)
    plan = pruner.step()
    assert pruner.model is model
    assert [expert.gate_proj.out_features for expert in model.moe.experts] == [3] * 4
    with torch.no_grad():
        assert torch.equal(wrapped(X), model(X))
    torch._dynamo.reset()
    if wrap is not compiled_inside:  # names of the original differ there
        assert difference(original, model, plan, X) < 1e-12


def test_adapters_are_refused_in_one_line(monkeypatch):
    module = types.ModuleType("peft.tuners.layer")
    monkeypatch.setitem(sys.modules, "peft.tuners.layer", module)
    adapted = type("LoraLinear", (nn.Linear,), {"__module__": "peft.tuners.layer"})
    model = build(Net)
    model.head = adapted(8, 3)
    with pytest.raises(PruningRefused, match=r"head is wrapped by adapters of PEFT; .* model\.merge_and_unload\(\)$"):
        mv.MoEPruner(model, X)


def test_training_mode_stays():
    model = build(Net).train()
    mv.MoEPruner(model, X, pruning_ratio=0.5).step()
    assert all(module.training for module in model.modules())

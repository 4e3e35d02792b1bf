"""Models in wrappers are judged as the models inside of them, given and returned; training mode makes no difference."""

import sys
import types

import pytest
import torch
from small_nets import MoEBlock, build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.subjects import prune_moe
from moeverify.verdict import PROBLEMS, Status

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
CHECKS = ("terminates", "expert-isolation", "forward-every-expert", "router-intact", "masked-equivalence", "shapes")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.moe, self.head = nn.Linear(8, 8), MoEBlock(shared=0), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.enter(x)
        return self.head(self.drop(x + self.moe(x)))


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "both": lambda model: compiled(nn.DataParallel(model)),
    "training": nn.Module.train,
}


def judged(model, subject="moe"):
    return {v.check: v for v in mv.verify(model, example_inputs=X, subject=subject, checks=CHECKS).verdicts}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_is_given_in_a_wrapper(wrapper):
    found = judged(WRAPPERS[wrapper](build(Net)))
    assert {v.message for v in found.values() if v.status is not Status.PASS} == set()


@pytest.mark.parametrize("damage", [False, True])
@pytest.mark.parametrize("wrapper", ["compiled", "parallel"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_a_subject_returns_in_a_wrapper(wrapper, damage):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        if damage:
            model.head.weight.data[0, 0] += 1
        return WRAPPERS[wrapper](model)

    found = judged(build(Net), prune)
    wrong = {name for name, v in found.items() if v.status in PROBLEMS}
    assert wrong == ({"masked-equivalence"} if damage else set())


def test_adapters_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft.tuners.layer", types.ModuleType("peft.tuners.layer"))
    adapted = type("LoraLinear", (nn.Linear,), {"__module__": "peft.tuners.layer"})
    model = build(Net)
    model.head = adapted(8, 3)
    with pytest.raises(PruningRefused, match=r"head is wrapped by adapters of PEFT; .* model\.merge_and_unload\(\)$"):
        judged(model)

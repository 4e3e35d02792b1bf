"""Small models and pruners under test that the tests name as ``module:attribute``."""

import os
import signal
import time

import torch
from torch import nn

from moeverify.subjects import prune_moe
from synthetic_models import Spec, build, example_inputs


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def two_layers():
    return TwoLayers(), torch.randn(5, 8)


def without_weights():
    with torch.device("meta"):
        return nn.Linear(8, 4), torch.randn(5, 8)


class OneInput(TwoLayers):
    """Takes its example alone, so that no other inputs can be drawn."""

    def forward(self, x):
        if not torch.equal(x.float(), _example()):
            raise ValueError("not the example")
        return super().forward(x)


def _example():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def one_input():
    return OneInput(), _example()


def raises():
    raise ZeroDivisionError("by design")


def not_a_model():
    return "a string", None


def hangs(model, example_inputs, *, pruning_ratio, seed):
    while True:
        time.sleep(0.01)


def crashes(model, example_inputs, *, pruning_ratio, seed):
    raise ZeroDivisionError("by design")


def dies(model, example_inputs, *, pruning_ratio, seed):
    os.kill(os.getpid(), signal.SIGSEGV)


def eats_memory(model, example_inputs, *, pruning_ratio, seed):
    held = []
    while True:
        held.append(torch.ones(1 << 24))
        time.sleep(0.05)


def slow(model, example_inputs, *, pruning_ratio, seed):
    time.sleep(0.5)
    return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)


def slow_without_groups(model, example_inputs, *, pruning_ratio, seed):
    prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)


def unusual_names():
    """A synthetic MoE model whose experts, router and shared expert go by names that nobody uses."""
    sizes = {"hidden": 16, "widths": (8, 8, 8, 8), "shared_width": 8}
    spec = Spec(layers=("moe",), names="arbitrary", storage="fused", shared="one", **sizes)
    return build(spec), example_inputs(spec)

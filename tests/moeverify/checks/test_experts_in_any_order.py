"""Right removals that others make pass: kept experts in another order, in another layout, together with channels."""

import pytest
import torch
from torch import nn

from moeverify.models.sources import LoadedModel, load_source
from moeverify.subjects.moe import prune_moe
from moeverify.verdict import Status
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.in_process import run_case

CHECKS = ("masked-equivalence", "router-intact", "topology", "untouched-identical", "reload")
ORDER = [3, 0]


def problems(loaded, subject, checks=CHECKS):
    reached = []
    run_case(Case(loaded.name, "here", checks=checks), reached.append, loaded=loaded, subject=subject)
    found = {e.verdict.check: e.verdict for e in reached if isinstance(e, VerdictReached)}
    return {name: v.message for name, v in found.items() if v.status not in (Status.PASS, Status.SKIP)}


def descending(model, inputs, *, pruning_ratio, seed):
    """A pruner that keeps experts by score, the best first."""
    for layer in model.model.layers:
        block = layer.mlp
        block.gate.weight = nn.Parameter(block.gate.weight.detach()[ORDER])
        block.gate.num_experts = block.num_experts = block.experts.num_experts = 2
        for name in ("gate_up_proj", "down_proj"):
            setattr(block.experts, name, nn.Parameter(getattr(block.experts, name).detach()[ORDER]))
    model.config.num_local_experts = model.num_experts = 2


def test_kept_experts_in_descending_order_pass():
    assert problems(load_source("zoo:mixtral"), descending) == {}


class Wide(nn.Module):
    """Experts whose rows lie one after the other in two matrices, without configuration."""

    def __init__(self, experts=6, width=4):
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.ffn = nn.Module()
        self.ffn.router = nn.Linear(8, experts, bias=False)
        self.ffn.experts = nn.Module()
        self.ffn.experts.w1 = nn.Parameter(torch.randn(experts * width, 8) / 2)
        self.ffn.experts.w2 = nn.Parameter(torch.randn(experts * width, 8) / 2)
        self.width = width

    def forward(self, x):
        x = self.embed(x)
        scores = self.ffn.router(x)
        experts = scores.shape[-1]
        weights, chosen = scores.softmax(-1).topk(2, dim=-1)
        w1, w2 = (w.view(experts, -1, 8) for w in (self.ffn.experts.w1, self.ffn.experts.w2))
        gates = torch.zeros_like(scores).scatter(-1, chosen, weights)
        inner = torch.einsum("tc,ewc->tew", x, w1).relu() * gates[..., None]
        return self.head(x + torch.einsum("tew,ewc->tc", inner, w2))


def test_experts_in_rows_without_configuration_pass():
    torch.manual_seed(0)
    model = Wide().eval()

    def halve(model, inputs, *, pruning_ratio, seed):
        return prune_moe(model, inputs, pruning_ratio=0.0, seed=seed, ratios={"experts": 0.5}, round_to=None)

    loaded = LoadedModel("here", model, torch.randn(40, 5))
    assert problems(loaded, halve, ("masked-equivalence", "router-intact", "untouched-identical")) == {}
    assert model.ffn.experts.w1.shape == (12, 8)


@pytest.mark.parametrize("name", ["zoo:mixtral", "synthetic:fused"])
def test_experts_and_channels_at_once_pass(name):
    def both(model, inputs, *, pruning_ratio, seed):
        return prune_moe(model, inputs, pruning_ratio=0.5, seed=seed, ratios={"experts": 0.5})

    assert problems(load_source(name), both) == {}

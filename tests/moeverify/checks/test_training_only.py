"""Weights that only a training forward uses are compared in one; what no forward uses is not approved."""

import pytest
import torch
from judged import verdicts
from torch import nn
from torch.nn import functional as F

import moeverify as mv
from moeverify.checks.evidence.training import in_training
from moeverify.subjects import prune_moe
from moeverify.verdict import Status

X = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))


class NoisyGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.spread = nn.Linear(12, 4), nn.Linear(12, 4, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        scores = self.score(x)
        if self.training:
            scores = scores + torch.randn_like(scores) * F.softplus(self.spread(x))
        return self.dropout(scores.softmax(-1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.gate, self.head = nn.Linear(5, 12), NoisyGate(), nn.Linear(12, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)) for _ in range(4))

    def forward(self, x):
        x = self.proj(x)
        weights = self.gate(x)
        return self.head(x + sum(weights[:, n, None] * expert(x) for n, expert in enumerate(self.experts)))


def net():
    torch.manual_seed(0)
    return Net().eval()


def judged(model, subject=prune_moe):
    return verdicts(model, X[:, :5], subject, checks=["masked-equivalence"])["masked-equivalence"]


def test_the_noise_of_a_router_is_seen_in_training():
    verdict = judged(net())
    assert verdict.status is Status.PASS
    assert verdict.evidence["in_training"] == ["gate.spread.weight"]


def shuffled(model, inputs, **settings):
    """Cut all but the noise rightly: that keeps the first hidden channels, whichever the others keep."""
    spread = model.gate.spread.weight.detach().clone()
    outcome = prune_moe(model, inputs, **settings)
    kept = model.gate.spread.in_features
    model.gate.spread.weight = nn.Parameter(spread[:, 12 - kept :].clone())
    return outcome


def test_noise_that_kept_other_channels_is_not_approved():
    assert not torch.equal(*_kept_by_both())
    verdict = judged(net(), shuffled)
    assert verdict.status is Status.INCONCLUSIVE
    assert "only a training forward uses it, in which the outputs differ" in verdict.message


def _kept_by_both():
    models = net(), net()
    shuffled(models[0], X[:, :5], pruning_ratio=0.5, seed=0)
    prune_moe(models[1], X[:, :5], pruning_ratio=0.5, seed=0)
    return [model.gate.spread.weight for model in models]


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_remedy_that_is_named_works(ratio):
    model = net()
    plan = mv.MoEPruner(model, X[:, :5], pruning_ratio=ratio, ignored_layers=[model.gate.spread]).step()
    assert plan.cuts
    assert model.gate.spread.in_features == 12


def test_only_the_modules_around_are_in_training():
    model = net()
    with in_training(model, ["gate.spread.weight"]):
        assert [path for path, m in model.named_modules() if m.training] == ["", "gate", "gate.spread"]
    assert not any(m.training for m in model.modules())


def test_what_no_forward_uses_is_named_with_what_to_do():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj, self.head = nn.Linear(5, 12), nn.Linear(12, 3)
            self.units = nn.ModuleList(nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 12)) for _ in range(2))

        def forward(self, x):
            x = self.proj(x)
            return self.head(x + self.units[0](x))

    torch.manual_seed(0)
    verdict = judged(Spare().eval())
    assert verdict.status is Status.INCONCLUSIVE
    assert "units.1.0.weight" in verdict.message
    assert "no forward uses them; take them out of the model" in verdict.message

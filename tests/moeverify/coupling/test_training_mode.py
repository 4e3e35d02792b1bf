"""Parameters that only a training forward uses are coupled by it; the others veto their sizes, and say how to go on."""

import copy

import pytest
import torch
from masked_original import difference
from torch import nn
from torch.nn import functional as F

import moeverify as mv

IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


class NoisyGate(nn.Module):
    def __init__(self, noise, always):
        super().__init__()
        self.always = always
        self.score, self.spread, self.noise = nn.Linear(12, 5), nn.Linear(12, 5, bias=False), noise

    def forward(self, x):
        scores = self.score(x)
        spread = F.softplus(self.spread(x)) if self.always else 0
        if self.always and self.training:
            scores = scores + torch.randn_like(scores) * spread
        elif self.noise and self.training:
            scores = scores + torch.randn_like(scores) * F.softplus(self.spread(x))
        return scores.softmax(-1).topk(2, -1)


class Net(nn.Module):
    def __init__(self, noise=True, always=False):
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(20, 12), NoisyGate(noise, always), nn.Linear(12, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)) for _ in range(5))
        self.counted = 0

    def forward(self, ids):
        self.counted += self.training
        x = self.embed(ids).flatten(0, 1)
        weights, chosen = self.gate(x)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = (chosen == number).nonzero(as_tuple=True)
            out = out.index_add(0, row, expert(x[row]) * weights[row, place, None])
        return self.head(x + out)


def net(**arguments):
    torch.manual_seed(0)
    return Net(**arguments).eval()


def test_noise_of_a_router_follows_the_hidden_channels():
    model = net()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, IDS, pruning_ratio=0.5).step()
    assert (model.embed.embedding_dim, model.gate.spread.in_features) == (6, 6)
    assert difference(original, model, plan, IDS) < 1e-12
    assert model.counted == 0
    assert not any(module.training for module in model.modules())
    model.train()(IDS)


def test_noise_that_is_worked_out_and_dropped_follows_the_scores():
    """In evaluation no operation reads the noise, and its columns seemed to belong to nothing else."""
    model = net(always=True)
    classes = mv.trace_couplings(model, IDS).classes
    places = [{(m.parameter, m.dim) for m in c.members} for c in classes]
    assert not any(("gate.spread.weight", 0) in c for c in places)
    assert any({("gate.spread.weight", 1), ("embed.weight", 1)} <= c for c in places)
    mv.MoEPruner(model, IDS, pruning_ratio=0.5).step()
    assert model.gate.spread.weight.shape == (5, 6)
    model.train()(IDS)


def test_the_veto_names_its_cause_and_the_role_that_stays():
    model = net(noise=False)
    match = r"hidden is left alone, 6 were asked: .*gate\.spread\.weight was not used .* leave its module alone"
    with pytest.warns(UserWarning, match=match):
        plan = mv.MoEPruner(model, IDS, pruning_ratio=0.5).step()
    assert model.embed.embedding_dim == 12
    assert [entry["role"] for entry in plan.left_alone] == ["hidden"]


def test_an_ignored_layer_vetoes_nothing():
    model = net(noise=False)
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, IDS, pruning_ratio=0.5, ignored_layers=[model.gate.spread]).step()
    assert (model.embed.embedding_dim, model.gate.spread.in_features) == (6, 12)
    assert difference(original, model, plan, IDS) < 1e-12

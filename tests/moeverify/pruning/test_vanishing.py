"""Units that no weights read are pruned if they add nothing with weights of zero, and left alone if they do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_original import difference
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.pruning.step.vanishing import has_no_reader, vanishes

X = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))


class Retrieval(nn.Module):
    """Heads that look up shared values by scores; ``how`` the scores become shares."""

    def __init__(self, how):
        super().__init__()
        self.how, self.heads = how, 4
        self.query, self.keys = nn.Linear(8, 4 * 5, bias=False), nn.Parameter(torch.randn(4, 7, 5))
        self.values, self.out = (
            nn.Parameter(torch.randn(7, 8)),
            nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8)),
        )

    def forward(self, x):
        b, t, _ = x.shape
        scores = torch.einsum("bthd,hkd->bthk", self.query(x).view(b, t, self.heads, -1), self.keys)
        shares = scores.softmax(-1) if self.how == "softmax" else scores.tanh()
        return self.out(x + torch.einsum("bthk,kd->btd", shares, self.values).tanh())


def test_heads_that_still_add_something_are_left_alone():
    torch.manual_seed(0)
    model = Retrieval("softmax").eval()
    plan = mv.MoEPruner(model, (X,), pruning_ratio=0.5).step()
    (left,) = (entry for entry in plan.left_alone if entry["units"] == 4)
    assert "still adds to the outputs" in str(left["reason"])
    assert model.keys.shape[0] == 4
    with pytest.raises(PruningRefused, match="still adds to the outputs"):
        mv.MoEPruner(Retrieval("softmax").eval(), (X,), ratios={str(left["role"]): 0.5}).step()


def test_heads_that_add_nothing_are_pruned():
    torch.manual_seed(0)
    model = Retrieval("tanh").eval()
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, (X,), pruning_ratio=0.5).step()
    assert model.keys.shape[0] == 2
    assert difference(original, model, plan, X) < 1e-6


class Rows(nn.Module):
    """Experts one after the other in the rows of two matrices; the rows of the second read what the first makes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3 * 10, 8)), nn.Parameter(torch.randn(3 * 10, 8))

    def forward(self, x, shares):
        hidden = torch.einsum("btd,ehd->bteh", x, self.up.view(3, -1, 8)).sigmoid()
        return torch.einsum("bteh,ehd,bte->btd", hidden, self.down.view(3, -1, 8), shares)


class RowsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(8, 3), Rows()

    def forward(self, x):
        return self.experts(x, self.router(x).softmax(-1))


def rows_cut_apart():
    """The model, and a plan of which every expert keeps channels of its own."""
    torch.manual_seed(0)
    model = RowsNet().eval()
    plan = mv.MoEPruner(model, (X,), pruning_ratio=0, ratios={"routed_experts": 0.5}, round_to=1).plan()
    return model, plan


def test_rows_that_other_rows_read_have_a_reader():
    model, plan = rows_cut_apart()
    (cut,) = plan.cuts
    assert (cut.pruning_class.experts, {m.dim for m in cut.pruning_class.coupling.members}) == (3, {0})
    sizes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    assert not has_no_reader(cut.pruning_class, sizes)
    assert has_no_reader(replace(cut.pruning_class, experts=0), sizes)


def test_channels_that_each_expert_chose_for_itself_vanish():
    model, plan = rows_cut_apart()
    assert plan.cuts[0].kept.ndim == 2
    before = copy.deepcopy(model.state_dict())
    assert vanishes(model, plan, Example((X,)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_rows_alone_that_go_would_not_vanish():
    """The reading rows are cut at other channels than those that were read."""
    model, plan = rows_cut_apart()
    others = np.setdiff1d(np.arange(30), plan.keep["experts.up", 0])
    mixed = {**plan.keep, ("experts.up", 0): others}
    assert not vanishes(model, replace(plan, keep=mixed), Example((X,)))

"""Units that no weights read are pruned if they add nothing with weights of zero, and left alone if they do."""

import copy

import pytest
import torch
from masked_original import difference
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused

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

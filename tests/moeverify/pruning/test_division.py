"""Experts in common parameters whose channels meet before they are used have none of their own."""

import pytest
import torch
from torch import nn

import moeverify as mv
from tests.support.small_nets import build

TOKENS = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
EXPERTS, HIDDEN, INNER = 4, 8, 10


class Stacks(nn.Module):
    """Two stacks; ``how`` they are used: merged into one expert by gates, or each by itself and mixed afterwards."""

    def __init__(self, how: str) -> None:
        super().__init__()
        rows = how == "rows merged"
        shapes = [(EXPERTS * INNER, HIDDEN)] * 2 if rows else [(EXPERTS, INNER, HIDDEN), (EXPERTS, HIDDEN, INNER)]
        self.up, self.down = (nn.Parameter(torch.randn(shape)) for shape in shapes)
        self.how = how

    def forward(self, x, gates):
        one = gates.mean(0)
        if self.how == "summed":
            up, down = ((one[:, None, None] * p).sum(0) for p in (self.up, self.down))
            return torch.relu(x @ up.T) @ down.T
        if self.how == "contracted":  # other gates for each token
            inner = torch.relu(torch.einsum("th,te,eih->ti", x, gates, self.up))
            return torch.einsum("ti,te,ehi->th", inner, gates, self.down)
        if self.how == "one down projection":
            inner = torch.relu(torch.einsum("th,eih->tei", x, self.up))
            return torch.einsum("tei,te->ti", inner, gates) @ self.down.mean(0).T
        if self.how == "rows merged":
            up, down = ((one[:, None, None] * p.view(EXPERTS, -1, x.shape[-1])).sum(0) for p in (self.up, self.down))
            return torch.relu(x @ up.T) @ down
        inner = torch.relu(torch.einsum("th,eih->tei", x, self.up))
        return torch.einsum("tei,ehi,te->th", inner, self.down, gates)


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.router = nn.Linear(5, HIDDEN), nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts, self.head = Stacks(how), nn.Linear(HIDDEN, 2)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.experts(x, self.router(x).softmax(-1)))


def inner_class(how):
    graph = mv.MoEDependencyGraph().build_dependency(build(Net, how), TOKENS)
    return next(c for c in graph.classes if c.role == "routed_experts")


@pytest.mark.parametrize("how", ["summed", "contracted", "one down projection", "rows merged"])
def test_merged_experts_are_left_alone_and_the_operation_named(how):
    found = inner_class(how)
    assert (found.experts, found.coupling.size) == (0, INNER)
    assert "in experts adds up the channels of all experts in experts." in found.joint
    model = build(Net, how)
    with pytest.warns(UserWarning, match="is left alone, .* would take the others' along: aten"):
        mv.MoEPruner(model, TOKENS, ratios={"hidden": 0.25}, ignored_layers=[model.head]).step()
    assert INNER in model.experts.up.shape or EXPERTS * INNER in model.experts.up.shape


def test_experts_that_run_on_every_token_and_are_mixed_afterwards_stand_alone():
    found = inner_class("mixed")
    assert (found.experts, found.joint) == (EXPERTS, "")

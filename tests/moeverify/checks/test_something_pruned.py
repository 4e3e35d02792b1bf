"""Routed experts that a plan leaves alone, with a reason, are neither approved nor blamed on the pruner."""

import torch
from judged import verdicts
from torch import nn

from moeverify.subjects import prune_moe
from moeverify.verdict import Status

X = torch.randn(7, 10, generator=torch.Generator().manual_seed(0))
WIDTH = 16


class Expert(nn.Module):
    """Its width is a number of the file, which nothing can bring in step."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(10, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x):
        return self.down(self.up(x).relu().view(-1, WIDTH))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10))
        self.router, self.head = nn.Linear(10, 3), nn.Linear(10, 2)
        self.experts = nn.ModuleList(Expert() for _ in range(3))

    def forward(self, x):
        x = self.proj(x).view(-1, 10)
        weights = self.router(x).softmax(-1)
        return self.head(x + sum(weights[:, n, None] * expert(x) for n, expert in enumerate(self.experts)))


def judged(subject):
    torch.manual_seed(0)
    return verdicts(Net(), X, subject, checks=["something-pruned"])["something-pruned"]


def test_experts_that_the_plan_leaves_alone_are_inconclusive_with_reason_and_line():
    verdict = judged(prune_moe)
    assert verdict.status is Status.INCONCLUSIVE
    assert "is left alone" in verdict.message
    assert "test_something_pruned.py:" in verdict.message
    assert "--ratio ROLE=R" in verdict.message


def test_experts_that_were_left_without_a_reason_fail():
    def silent(model, inputs, **settings):
        first, _, last = model.proj
        first.weight, first.bias = nn.Parameter(first.weight[:10].detach()), nn.Parameter(first.bias[:10].detach())
        last.weight = nn.Parameter(last.weight[:, :10].detach())

    verdict = judged(silent)
    assert verdict.status is Status.FAIL
    assert "experts were not pruned" in verdict.message

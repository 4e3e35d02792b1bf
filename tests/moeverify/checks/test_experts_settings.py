"""``unrelated-unchanged`` compares settings of experts where others went: it is known who stayed."""

import pytest
import torch
from judged import verdicts
from torch import nn

from moeverify.subjects import prune_moe
from moeverify.verdict import Status

CHECK = "unrelated-unchanged"
IDS = (torch.arange(32).view(2, 16) % 30,)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.drop, self.down = nn.Linear(12, 16), nn.Dropout(0.1), nn.Linear(16, 12)
        self.limit = 4096

    def forward(self, x):
        return self.down(self.drop(self.up(x[: self.limit]).relu()))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(30, 12), nn.Linear(12, 4), nn.Linear(12, 20)
        self.experts = nn.ModuleList(Expert() for _ in range(4))

    def forward(self, ids):
        x = self.embed(ids)
        probs = self.gate(x).softmax(-1)
        return self.head(x + sum(probs[..., n, None] * expert(x) for n, expert in enumerate(self.experts)))


def judged(change):
    def prune(model, example_inputs, **options):
        pruned = prune_moe(model, example_inputs, **options)
        for expert in model.experts:
            change(expert)
        return pruned

    torch.manual_seed(0)
    return verdicts(Net(), IDS, prune, (CHECK,), pruning_ratio=0.5, ratios={"experts": 0.25})[CHECK]


def no_dropout(expert):
    expert.drop = nn.Identity()


def shorter(expert):
    expert.limit = 2048


@pytest.mark.parametrize(("change", "status"), [(no_dropout, Status.FAIL), (shorter, Status.INCONCLUSIVE)])
@pytest.mark.parametrize("moved", [False, True])
def test_a_setting_of_an_expert_that_stayed(change, status, moved):
    """Of one that kept its place, and of one that moved up."""
    seen = []

    def at_one(expert):
        seen.append(expert)
        if len(seen) == (3 if moved else 1):
            change(expert)

    found = judged(at_one)
    assert found.status is status, found.message


def test_settings_that_stayed():
    assert judged(lambda expert: None).status is Status.PASS

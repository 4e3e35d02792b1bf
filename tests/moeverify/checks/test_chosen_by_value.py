"""A table whose rows are chosen by value: rows that a unit at zero leaves out by chance do not belong to its group."""

from dataclasses import replace

import pytest
import torch
from judged import verdicts
from torch import nn

from moeverify.subjects.faults.spoil import Work, without
from moeverify.verdict import Status

IDS = torch.randint(0, 30, (2, 8), generator=torch.Generator().manual_seed(0))


class Memory(nn.Module):
    """The two rows whose keys fit best, of many."""

    def __init__(self, width, rows):
        super().__init__()
        self.query = nn.Linear(width, 10)
        self.key = nn.Parameter(torch.randn(rows, 10))
        self.value = nn.Embedding(rows, width)

    def forward(self, x):
        scores, rows = (self.query(x) @ self.key.t()).topk(2, -1)
        return (self.value(rows) * scores.softmax(-1)[..., None]).sum(-2)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.memory, self.answer = nn.Embedding(30, 12), Memory(12, 40), nn.Linear(12, 30)
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, ids):
        x = self.words(ids)
        x = x + self.memory(x)
        return self.answer(x + self.down(self.up(x).tanh()))


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_other_values_choose_are_not_missing(seed):
    torch.manual_seed(seed)
    found = verdicts(Reader(), (IDS,), checks=("coupling-complete",), seed=seed)["coupling-complete"]
    assert found.status is Status.PASS, found.message


def test_a_member_that_is_left_out_is_missing_all_the_same():
    def prune(model, example_inputs, *, pruning_ratio, seed):
        work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        return work.with_classes(without(work.outcome.classes, lambda m: (m.parameter, m.dim) == ("down.weight", 1)))

    torch.manual_seed(0)
    found = verdicts(Reader(), (IDS,), prune, checks=("coupling-complete",))["coupling-complete"]
    assert found.status is Status.FAIL
    assert "down.weight dim 1" in found.message


class TwoReaders(nn.Module):
    """Shares by a sigmoid, which are one half for a channel at zero, weigh the parts of two matrices."""

    def __init__(self):
        super().__init__()
        self.shares, self.answer = nn.Linear(12, 8), nn.Linear(12, 5)
        self.first, self.second = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(8, 12))

    def forward(self, x):
        shares = self.shares(x).sigmoid()
        return self.answer((shares @ self.first).tanh() + (shares @ self.second).tanh())


@pytest.mark.parametrize("stray", [False, True])
def test_readers_that_silence_a_channel_only_together_belong_to_it(stray):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        (group,) = (c for c in work.outcome.classes if "shares.weight" in c.coupling.parameters)
        member = next(m for m in group.coupling.members if m.parameter == "first")
        other = replace(member, parameter="answer.weight", dim=1)
        more = replace(group, coupling=replace(group.coupling, members=(*group.coupling.members, other)))
        return work.with_classes([more if stray and c is group else c for c in work.outcome.classes])

    torch.manual_seed(0)
    found = verdicts(TwoReaders(), (torch.randn(6, 12),), prune, checks=("coupling-minimal",))["coupling-minimal"]
    assert found.status is (Status.FAIL if stray else Status.PASS), found.message

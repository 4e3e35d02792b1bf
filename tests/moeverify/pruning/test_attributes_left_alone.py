"""Where no attribute can follow a cut, or two could, the class is left alone or refused, and the line is named."""

import pytest
from masked_original import difference
from sized_nets import EXACT, X, prune
from small_nets import build
from torch import nn
from torch.nn import functional as F

from moeverify.errors import PruningRefused


class Ambiguous(nn.Module):
    """Two attributes hold the number of heads; either could have changed."""

    def __init__(self):
        super().__init__()
        self.first = self.second = 4
        self.q, self.k, self.o = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)
        self.wide, self.narrow = nn.Linear(3, 20), nn.Linear(20, 3)

    def forward(self, x):
        q, k = (f(x).view(*x.shape[:2], min(self.first, self.second), -1).transpose(1, 2) for f in (self.q, self.k))
        y = self.o(((q @ k.transpose(-1, -2)).softmax(-1) @ q).transpose(1, 2).flatten(2))
        return self.narrow(self.wide(y).relu())


def test_what_two_attributes_could_explain_is_left_alone():
    model = build(Ambiguous)
    with pytest.warns(
        UserWarning, match=r"left alone, 2 were asked: .* either of two attributes would do, (first|second) 4 -> 2 or"
    ):
        original, plan = prune(model)
    assert (model.q.out_features, model.wide.out_features, model.first, model.second) == (16, 10, 4, 4)
    assert difference(original, model, plan, X) < EXACT


class Fixed(nn.Module):
    """A number of heads that only the text of the forward holds, beside what can go."""

    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(6, 16), nn.Linear(16, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 6)) for _ in range(2))

    def forward(self, x):
        q = self.q(x).reshape(*x.shape[:2], 4, 4).transpose(1, 2)
        y = self.o((q @ q.transpose(-1, -2)).softmax(-1).matmul(q).transpose(1, 2).flatten(2))
        for block in self.blocks:
            y = y + block(y)
        return y


LINE = Fixed.forward.__code__.co_firstlineno + 1


def test_the_rest_goes_and_the_line_is_named():
    model = build(Fixed)
    with pytest.warns(UserWarning, match=rf"is left alone, .*test_attributes_left_alone\.py:{LINE}"):
        original, plan = prune(model)
    assert [block[0].out_features for block in model.blocks] == [10, 10]
    assert model.q.out_features == 16
    assert difference(original, model, plan, X) < EXACT
    (left,) = plan.left_alone
    assert (left["units"], left["kept"]) == (4, 4)
    assert left["line"].endswith(f"test_attributes_left_alone.py:{LINE}")


def test_what_was_asked_for_by_name_is_refused_with_the_line():
    model = build(Fixed)
    with pytest.raises(PruningRefused, match=rf"^heads .*test_attributes_left_alone\.py:{LINE}"):
        prune(model, ratios={"heads": 0.5})
    assert model.q.out_features == 16
    assert model.blocks[0][0].out_features == 20


def test_if_nothing_is_left_every_class_is_listed():
    class Nothing(Fixed):
        def forward(self, x):
            assert (self.q.out_features, self.blocks[0][0].out_features, self.blocks[1][0].out_features) == (16, 20, 20)
            return super().forward(x)

    with pytest.raises(
        PruningRefused, match=r"nothing can be pruned: .*blocks\.0, other of blocks\.1: .*AssertionError"
    ):
        prune(build(Nothing))


class Twice(nn.Module):
    """The number of heads is the number of chosen channels, of groups of a norm, or decides a branch as well."""

    def __init__(self, use):
        super().__init__()
        self.use, self.count = use, 4
        self.q, self.o = nn.Linear(6, 16), nn.Linear(16, 3)
        self.wide, self.narrow = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x):
        q = self.q(x).view(*x.shape[:2], self.count, -1).transpose(1, 2)
        y = self.o((q @ q.transpose(-1, -2)).softmax(-1).matmul(q).transpose(1, 2).flatten(2))
        z = self.wide(x)
        if self.use == "groups":
            z = F.group_norm(z.transpose(1, 2), self.count).transpose(1, 2)
        if self.use == "branch" and self.count > 2:
            z = z * 2
        y = y + self.narrow(z.relu())
        return y.roll(self.count, 1) if self.use == "shift" else y


@pytest.mark.parametrize("use", ["groups", "branch", "shift"])
def test_a_number_with_a_second_meaning_is_left_alone(use):
    model = build(lambda: Twice(use))
    with pytest.warns(UserWarning, match=r"heads is left alone, .* would compute something else .* with count 4 -> 2"):
        original, plan = prune(model)
    assert (model.count, model.q.out_features) == (4, 16)
    assert model.wide.out_features == 12
    assert use == "groups" or difference(original, model, plan, X) < EXACT

"""Sizes that a model keeps in attributes follow a cut."""

import copy

import pytest
import torch
from masked_original import difference
from sized_nets import EXACT, KINDS, Reads, X, prune
from small_nets import build
from torch import nn
from torch.nn import functional as F

import moeverify as mv


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_modules_share_follow(kind):
    model = build(lambda: Reads(kind))
    settings = model.settings
    original, plan = prune(model)
    assert (model.embed.out_features, model.up.out_features, model.attention.qkv.out_features) == (12, 20, 36)
    assert (model.settings.width, model.settings.heads, model.settings.inner) == (12, 2, 20)
    assert model.attention.settings is model.settings
    assert difference(original, model, plan, X) < EXACT
    assert {(str(c.slot), c.old, c.new) for c in plan.attributes} == {
        ("settings.width", 24, 12),
        ("settings.heads", 4, 2),
        ("settings.inner", 40, 20),
    }
    replaced = kind in ("class", "frozen dataclass", "named tuple")
    assert (settings is model.settings) is not replaced
    assert not replaced or (settings.width, settings.heads, settings.inner) == (24, 4, 40)


def test_shares_that_do_not_agree_are_brought_together():
    """The size of a head is worked out from the width: 17 of 24 channels do not make 2 of 4 heads."""
    model = build(Reads)
    with pytest.warns(
        UserWarning, match=r"keeps 12 of 24 units, 17 were asked: it follows the share .*sized_nets\.py:"
    ):
        original, plan = prune(model, pruning_ratio=0.29)
    assert model.settings.heads * 6 == model.settings.width == model.embed.out_features
    assert difference(original, model, plan, X) < EXACT


class Sizes(nn.Module):
    """Sizes in a list, a tuple and a mapping; a norm without weights; a block that nothing tells to follow."""

    def __init__(self):
        super().__init__()
        self.parts, self.shape, self.table = [20, 12], (4, 5), {"width": 28, 7: 3}
        self.both, self.join = nn.Linear(6, 32), nn.Linear(32, 28)
        self.norm, self.head = nn.LayerNorm(28, elementwise_affine=False), nn.Linear(28, 3)

    def forward(self, x):
        a, b = self.both(x).split(self.parts, dim=-1)
        a = a.unflatten(-1, self.shape).tanh().flatten(-2)
        y = self.norm(self.join(torch.cat([a, b.sigmoid()], -1)))
        return self.head(y.view(-1, self.table["width"]).relu()).view(*x.shape[:-1], 3)


def test_lists_tuples_mappings_and_norms_without_weights():
    model = build(Sizes)
    original, plan = prune(model)
    assert (model.parts, model.shape, model.table["width"]) == ([10, 6], (2, 5), 14)
    assert model.norm.normalized_shape == (14,)
    assert difference(original, model, plan, X) < EXACT


class Reshapes(nn.Module):
    """Rows of another length run as well, and give something else: nothing fails where the width is stale."""

    def __init__(self):
        super().__init__()
        self.width = 24
        self.a, self.b = nn.Linear(6, 24), nn.Linear(24, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(F.normalize(y.reshape(-1, self.width), dim=-1).reshape(y.shape))


def test_a_stale_size_that_runs_is_seen():
    model = build(Reshapes)
    original, plan = prune(model)
    assert (model.width, model.a.out_features) == (12, 12)
    assert difference(original, model, plan, X) < EXACT


class Two(nn.Module):
    """Two blocks that each count their own heads."""

    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(Counted() for _ in range(2))

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.count, self.q, self.o = 8, nn.Linear(12, 32), nn.Linear(32, 12)

    def forward(self, x):
        q = self.q(x).view(*x.shape[:2], self.count, -1).transpose(1, 2)
        return self.o((q @ q.transpose(-1, -2)).softmax(-1).matmul(q).transpose(1, 2).flatten(2))


def test_blocks_that_keep_different_numbers_each_get_their_own():
    model = build(Two)
    by_layer = {model.blocks[0].q: 0.25, model.blocks[1].q: 0.5}
    original, plan = prune(model, pruning_ratio=0, pruning_ratio_dict=by_layer)
    assert [(block.count, block.q.out_features) for block in model.blocks] == [(6, 24), (4, 16)]
    assert difference(original, model, plan, X) < EXACT


def test_groups_pruned_one_by_one_set_the_attributes_with_the_last():
    model = build(Reads)
    original = copy.deepcopy(model)
    pruner = mv.MoEPruner(model, X, pruning_ratio=0.5)
    for group in pruner.step(interactive=True):
        group.prune()
    assert (model.settings.width, model.settings.heads, model.settings.inner) == (12, 2, 20)
    assert difference(original, model, pruner.last_plan, X) < EXACT
    part = mv.MoEPruner(build(Reads), X, pruning_ratio=0.5)
    groups = part.step(interactive=True)
    next(groups).prune()
    with pytest.warns(UserWarning, match=r"not pruned as planned: set settings\.heads 4 -> 2, .* by hand"):
        list(groups)


class Halves(nn.Module):
    """Where a projection is halved an attribute says; a half that is empty would add nothing and fail nowhere."""

    def __init__(self):
        super().__init__()
        self.half = 10
        self.up, self.down = nn.Linear(6, 20), nn.Linear(10, 3)

    def forward(self, x):
        y = self.up(x)
        return self.down(y[..., : self.half] * y[..., self.half :].sigmoid())


def test_an_attribute_where_halves_begin_follows():
    model = build(Halves)
    original, plan = prune(model)
    assert (model.half, model.up.out_features) == (5, 10)
    assert difference(original, model, plan, X) < EXACT

"""Sizes that a model keeps in attributes follow a cut, or what hangs on them is left alone by name."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from masked_original import difference
from small_nets import build
from torch import nn
from torch.nn import functional as F

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.pruning.attributes.change import AttributeChange, set_attributes
from moeverify.pruning.attributes.slots import Slot, slots_of

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
EXACT = 1e-12


@dataclass
class Settings:
    width: int = 24
    heads: int = 4
    inner: int = 40


@dataclass(frozen=True)
class FrozenSettings:
    width: int = 24
    heads: int = 4
    inner: int = 40


class NamedSettings(NamedTuple):
    width: int = 24
    heads: int = 4
    inner: int = 40


class Namespace:
    width, heads, inner = 24, 4, 40
    name = "a class that nobody makes an object of"


KINDS = {
    "class": lambda: Namespace,
    "dataclass": Settings,
    "frozen dataclass": FrozenSettings,
    "namespace": lambda: SimpleNamespace(width=24, heads=4, inner=40),
    "named tuple": NamedSettings,
    "object": lambda: type("Plain", (), {"width": 24, "heads": 4, "inner": 40})(),
}


class Attention(nn.Module):
    """One projection split by the width, heads counted by the settings."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).split(self.settings.width, dim=-1)
        shape = (b, n, self.settings.heads, self.settings.width // self.settings.heads)
        q, k, v = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) * 0.4).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, self.settings.width))


class Reads(nn.Module):
    """A transformer block whose sizes are read from a settings object in every forward."""

    def __init__(self, kind="dataclass"):
        super().__init__()
        settings = KINDS[kind]()
        self.settings = settings
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.attention = Attention(settings)
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(F.layer_norm(x, (self.settings.width,)))
        assert self.up(x).shape[-1] == self.settings.inner
        return self.head(x + self.down(self.up(x).relu()))


def prune(model, x=X, **arguments):
    """The plan that was carried out, and an unpruned copy."""
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, x, **{"pruning_ratio": 0.5, **arguments}).step()
    return original, plan


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
        UserWarning, match=r"keeps 12 of 24 units, 17 were asked: it follows the share .*test_attributes\.py:"
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
    with pytest.warns(UserWarning, match=rf"is left alone, .*test_attributes\.py:{LINE}"):
        original, plan = prune(model)
    assert [block[0].out_features for block in model.blocks] == [10, 10]
    assert model.q.out_features == 16
    assert difference(original, model, plan, X) < EXACT
    (left,) = plan.left_alone
    assert (left["units"], left["kept"]) == (4, 4)
    assert left["line"].endswith(f"test_attributes.py:{LINE}")


def test_what_was_asked_for_by_name_is_refused_with_the_line():
    model = build(Fixed)
    with pytest.raises(PruningRefused, match=rf"^heads .*test_attributes\.py:{LINE}"):
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


def test_every_attribute_is_put_back_if_one_cannot_be_set():
    class Guarded(nn.Module):
        def __setattr__(self, name, value):
            if name == "guarded" and hasattr(self, "guarded"):
                raise RuntimeError("a size for ever")
            super().__setattr__(name, value)

    module = Guarded()
    module.guarded, module.sizes, module.frozen = 4, [3, (8, 2)], FrozenSettings()
    changes = [
        AttributeChange(Slot("", ("sizes", 1, 0)), 8, 6),
        AttributeChange(Slot("", ("frozen", "width")), 24, 12),
        AttributeChange(Slot("", ("guarded",)), 4, 2),
    ]
    with pytest.raises(PruningRefused, match=r"guarded cannot be set to 2 .*a size for ever"):
        set_attributes(module, changes)
    assert (module.sizes, module.frozen.width) == ([3, (8, 2)], 24)
    undo = set_attributes(module, changes[:2])
    assert (module.sizes, module.frozen.width) == ([3, (6, 2)], 12)
    undo()
    assert (module.sizes, module.frozen.width) == ([3, (8, 2)], 24)


def test_properties_and_layers_of_torch_are_no_slots():
    class Owner(nn.Module):
        shared = 5

        def __init__(self):
            super().__init__()
            self.linear, self.flag = nn.Linear(3, 4), True

        @property
        def computed(self):
            return 7

    assert [(str(slot), value) for slot, value in slots_of(Owner())] == [("shared", 5)]


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
    with pytest.warns(UserWarning, match=r"otherwise than planned: set settings\.heads 4 -> 2, .* by hand"):
        list(groups)


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
    with pytest.warns(UserWarning, match=r"heads is left alone, .* would compute otherwise .* with count 4 -> 2"):
        original, plan = prune(model)
    assert (model.count, model.q.out_features) == (4, 16)
    assert model.wide.out_features == 12
    assert use == "groups" or difference(original, model, plan, X) < EXACT


class Halves(nn.Module):
    """Where a projection is halved an attribute says; a half that is empty would add nothing and fail nowhere."""

    def __init__(self):
        super().__init__()
        self.half = 10
        self.up, self.down = nn.Linear(6, 20), nn.Linear(10, 3)

    def forward(self, x):
        y = self.up(x)
        return self.down(y[..., : self.half] * y[..., self.half :].sigmoid())


def test_halves_by_attribute():
    model = build(Halves)
    original, plan = prune(model)
    assert (model.half, model.up.out_features) == (5, 10)
    assert difference(original, model, plan, X) < EXACT


class Recipes(nn.Module):
    """A layer that keeps, by the number of dimensions, how it moves them: results of its own, no settings."""

    def __init__(self, recipes):
        super().__init__()
        self._recipes = recipes

    def forward(self, x):
        return x.permute(*self._recipes[x.dim()])


def test_results_that_a_layer_keeps_by_number_are_no_sizes():
    shared = {3: (0, 2, 1), 4: (0, 3, 1, 2)}
    slots = [slot for slot, _ in slots_of(nn.Sequential(Recipes(shared), Recipes(shared)))]
    assert not [slot for slot in slots if "_recipes" in slot.steps]
    named = Recipes({"a": 3})
    assert [str(slot) for slot, _ in slots_of(named)] == ["_recipes.a"]


def test_a_class_of_settings_stays_as_it_is_for_others():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.settings = Namespace

    model = Holder()
    undo = set_attributes(model, [AttributeChange(Slot("", ("settings", "width")), 24, 12)])
    assert (model.settings.width, model.settings.heads, Namespace.width) == (12, 4, 24)
    undo()
    assert model.settings is Namespace


def test_classes_that_do_something_hold_no_sizes():
    class Acts:
        width = 24

        def double(self):
            return 2 * self.width

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.kind, self.block, self.good = Acts, Attention, Namespace

    assert {slot.steps[0] for slot, _ in slots_of(Holder())} == {"good"}

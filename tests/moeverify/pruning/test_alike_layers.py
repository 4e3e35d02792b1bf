"""Layers that repeat are looked at once; what only one of them does is still seen."""

import copy

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

import moeverify as mv
from moeverify.models.alike_layers import representative_layers, shortened
from moeverify.models.forward import Example
from moeverify.pruning.configuration import remembered
from moeverify.pruning.constants import derived

LAYERS = 9
X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


class DeepConfig(PretrainedConfig):
    model_type = "deep_for_test"

    def __init__(self, inner=12, rule="none", by_layer=(), **more):
        self.inner, self.rule, self.by_layer = inner, rule, list(by_layer)
        super().__init__(**more)


class Layer(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.config, self.number = config, number
        self.up, self.down = nn.Linear(8, config.inner), nn.Linear(config.inner, 8)
        self.scaled = number == 5 if config.rule == "attribute" else config.rule == "all"

    def forward(self, x):
        y = self.down(torch.relu(self.up(x)))
        rule, number = self.config.rule, self.number
        listed = rule == "list" and self.config.by_layer[number]
        if self.scaled or listed or (rule == "odd" and number % 2):
            y = y * self.config.inner**0.5
        return x + y


class Deep(PreTrainedModel):
    config_class = DeepConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList([Layer(config, number) for number in range(LAYERS)])
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def deep(rule="none", **more):
    torch.manual_seed(0)
    return Deep(DeepConfig(rule=rule, **more)).double().eval()


def lists_of(monkeypatch):
    """How many layers each recorded forward had."""
    seen = []

    def noting(record):
        return lambda model, example: (seen.append(len(model.layers)), record(model, example))[1]

    remembered._ARCHITECTURES.clear()
    for name in ("record_forward", "record_on_meta"):
        monkeypatch.setattr(derived, name, noting(getattr(derived, name)))
    return seen


def pruned(model):
    base = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, pruning_ratio=0.5, ratios={"hidden": 0.0}, ignored_layers=[model.head]).step()
    for layer, other in zip(base.layers, model.layers, strict=True):
        kept = [n for n, row in enumerate(layer.up.weight) if any(torch.equal(row, mine) for mine in other.up.weight)]
        gone = torch.tensor([n for n in range(12) if n not in kept])
        layer.down.weight.data[:, gone] = 0.0
    assert [layer.up.out_features for layer in model.layers] == [6] * LAYERS
    return plan, (base(X) - model(X)).abs().max()


def test_one_of_each_kind_is_enough_where_nothing_changes(monkeypatch):
    seen = lists_of(monkeypatch)
    plan, difference = pruned(deep())
    assert seen == [3, 3]
    assert not plan.folds
    assert difference < 1e-12


def test_another_ratio_records_only_the_forward_of_its_own_sizes(monkeypatch):
    seen, model = lists_of(monkeypatch), deep()
    for ratio in (0.5, 0.25, 0.5):
        mv.MoEPruner(model, X, pruning_ratio=ratio, ratios={"hidden": 0.0}, ignored_layers=[model.head]).plan()
    assert seen == [3, 3, 3]


def test_a_forward_on_inputs_of_another_form_is_recorded_anew(monkeypatch):
    seen, model = lists_of(monkeypatch), deep()
    for inputs in (X, X[:2]):
        mv.MoEPruner(model, inputs, pruning_ratio=0.5, ratios={"hidden": 0.0}, ignored_layers=[model.head]).plan()
    assert seen == [3, 3, 3, 3]


def test_a_class_whose_forward_was_changed_is_recorded_anew(monkeypatch):
    seen, model = lists_of(monkeypatch), deep()
    forward = type(model.layers[0]).forward
    for _ in range(2):
        mv.MoEPruner(model, X, pruning_ratio=0.5, ratios={"hidden": 0.0}, ignored_layers=[model.head]).plan()
        monkeypatch.setattr(type(model.layers[0]), "forward", lambda self, x: forward(self, x))
    assert seen == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("rule", "scaled"), [("all", range(LAYERS)), ("attribute", [5]), ("odd", range(1, LAYERS, 2)), ("list", [6])]
)
def test_what_some_layers_derive_is_taken_over_in_each_of_them(monkeypatch, rule, scaled):
    seen = lists_of(monkeypatch)
    plan, difference = pruned(deep(rule, by_layer=[n == 6 for n in range(LAYERS)] if rule == "list" else []))
    assert LAYERS in seen
    assert {fold.parameter for fold in plan.folds} == {
        f"layers.{n}.down.{leaf}" for n in scaled for leaf in ("weight", "bias")
    }
    assert difference < 1e-12


def test_the_first_two_and_the_last_of_each_kind_stay():
    assert representative_layers(deep(), deep()) == {"layers": [0, 1, 8]}
    assert representative_layers(deep("attribute"), deep("attribute")) == {"layers": [0, 1, 5, 8]}
    assert representative_layers(deep(), deep(), apart={"layers"}) == {}


def test_layers_that_differ_in_the_other_model_are_of_several_kinds():
    other = deep()
    for number in range(LAYERS):
        other.layers[number].down = nn.Linear(12 + number, 8)
    assert representative_layers(deep(), other) == {}
    assert representative_layers(other, deep()) == {}


def test_an_object_that_is_not_plain_data_is_only_like_itself():
    model = deep()
    for layer in model.layers:
        layer.shared = model.embed.weight
    assert representative_layers(model, model) == {"layers": [0, 1, 8]}
    for layer in model.layers:
        layer.table = torch.randn(2)
    assert representative_layers(model, model) == {}


def test_a_shortened_model_keeps_the_numbers_and_is_whole_again():
    model = deep()
    expected = model(X)
    with shortened(model, {"layers": [0, 1, 8]}):
        names = {name for name, _ in model.named_modules() if name.startswith("layers.") and name.count(".") == 1}
        assert names == {"layers.0", "layers.1", "layers.8"}
        assert not torch.equal(model(X), expected)
    assert torch.equal(model(X), expected)
    assert len(model.layers) == LAYERS


def test_a_second_plan_builds_no_architecture_again():
    model = deep()
    pruner = mv.MoEPruner(model, X, pruning_ratio=0.5, ratios={"hidden": 0.0}, ignored_layers=[model.head])
    built = []
    original = Deep.__init__

    def counting(self, config):
        built.append(config.inner)
        original(self, config)

    Deep.__init__ = counting
    try:
        first = pruner.plan()
        once = len(built)
        again = pruner.plan()
    finally:
        Deep.__init__ = original
    assert len(built) - once < once
    assert built[once:] == [6]
    assert first.entries == again.entries


def planner(model, ratio=0.5):
    return mv.MoEPruner(model, X, pruning_ratio=ratio, ratios={"hidden": 0.0}, ignored_layers=[model.head])


def test_a_later_plan_of_the_same_sizes_records_nothing(monkeypatch):
    seen = lists_of(monkeypatch)
    pruner = planner(deep())
    first = pruner.plan()
    assert seen == [3, 3]
    assert [c.kept.tolist() for c in pruner.plan().cuts] == [c.kept.tolist() for c in first.cuts]
    assert seen == [3, 3]
    pruner.step()
    assert seen == [3, 3]
    assert pruner.model.config.inner == 6


def test_other_types_of_numbers_are_recorded(monkeypatch):
    seen = lists_of(monkeypatch)
    model = deep()
    pruner = planner(model)
    pruner.plan()
    del seen[:]
    planner(model).plan()  # another example of the same form
    assert seen == []
    model.float()  # a constant is rounded to the type of what it multiplies
    pruner.example = Example(X.float())
    del seen[:]
    pruner.plan()
    assert seen == [3, 3]
    model.double()
    pruner.plan()
    assert seen[2:] == [3, 3]


def test_what_changes_is_compared_anew_by_each_plan(monkeypatch):
    """A number that follows from a size is no reason for the second plan to pass over it."""
    seen = lists_of(monkeypatch)
    pruner = planner(deep("all"))
    first, second = pruner.plan(), pruner.plan()
    assert len(first.folds) == len(second.folds) == 2 * LAYERS  # weight and bias
    assert seen.count(LAYERS) >= 2

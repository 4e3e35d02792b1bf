"""Each argument of ``tp.pruner.BasePruner``: the same channels go here, on our graph and in Torch-Pruning."""

import warnings

import pytest
import torch_pruning as tp
from both_graphs import HEADS, assert_same, fresh, stock_pruner_on_our_graph
from everyday import everyday
from torch import nn

import moeverify as mv

LINEAR_OR_CONV = (nn.Linear, nn.modules.conv._ConvNd)
PRUNED_ALIKE = [name for name in HEADS if name != "GroupedConv"]  # whose groups lose the same channels here


def first_layer(model):
    return next(layer for layer in model.modules() if isinstance(layer, LINEAR_OR_CONV))


def inner_layers(model, heads):
    return tuple(m for m in model.modules() if isinstance(m, LINEAR_OR_CONV) and m not in heads)


ARGUMENTS = {
    "defaults": lambda model, heads: {},
    "pruning_ratio": lambda model, heads: {"pruning_ratio": 0.3},
    "ch_sparsity": lambda model, heads: {"ch_sparsity": 0.3},
    "global_pruning": lambda model, heads: {"global_pruning": True},
    "isomorphic": lambda model, heads: {"global_pruning": True, "isomorphic": True},
    "iterative_steps": lambda model, heads: {"iterative_steps": 3},
    "iterative_global": lambda model, heads: {"iterative_steps": 3, "global_pruning": True},
    "round_to": lambda model, heads: {"round_to": 2, "pruning_ratio": 0.4},
    "out_channel_groups": lambda model, heads: {"out_channel_groups": {first_layer(model): 2}},
    "channel_groups": lambda model, heads: {"channel_groups": {first_layer(model): 2}},
    "pruning_ratio_dict": lambda model, heads: {"pruning_ratio_dict": {first_layer(model): 0.25}},
    "a ratio for several layers": lambda model, heads: {
        "pruning_ratio_dict": {inner_layers(model, heads): 0.25},
        "global_pruning": True,
    },
}


def prune(build_pruner, name, argument):
    model, inputs, heads = fresh(name)
    # Torch-Pruning adds to its defaults, which outlive the call: each pruner gets tables of its own.
    options = {"in_channel_groups": {}, "out_channel_groups": {}, **ARGUMENTS[argument](model, heads)}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    given = inputs if len(inputs) > 1 else inputs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = build_pruner(model, given, importance, ignored_layers=heads, **options)
        for _ in range(options.get("iterative_steps", 1)):
            pruner.step()
    return model, inputs


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("name", everyday(PRUNED_ALIKE, {"Plain", "Residual"}))
def test_same_channels_as_stock(name, argument):
    stock, inputs = prune(tp.pruner.BasePruner, name, argument)
    ours, _ = prune(mv.MoEPruner, name, argument)
    assert_same(ours, stock, inputs)
    on_our_graph, _ = prune(lambda *a, **k: stock_pruner_on_our_graph(tp.pruner.BasePruner, *a, **k), name, argument)
    assert_same(on_our_graph, stock, inputs)


@pytest.mark.parametrize("kind", ["MetaPruner", "MagnitudePruner"])
def test_old_names_of_the_pruner_run_on_our_graph(kind):
    stock, inputs = prune(getattr(tp.pruner, kind), "Residual", "defaults")
    ours, _ = prune(
        lambda *a, **k: stock_pruner_on_our_graph(getattr(tp.pruner, kind), *a, **k), "Residual", "defaults"
    )
    assert_same(ours, stock, inputs)


@pytest.mark.parametrize("name", ["Plain", "Flatten"])
def test_root_module_types_choose_as_in_torch_pruning(name):
    stock, inputs, heads = fresh(name)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    types = [nn.Conv2d]
    tp.pruner.BasePruner(stock, inputs[0], importance, ignored_layers=heads, root_module_types=types).step()
    ours, _, heads = fresh(name)
    mv.MoEPruner(ours, inputs[0], importance, ignored_layers=heads, root_module_types=types).step()
    assert_same(ours, stock, inputs)
    assert name != "Flatten" or ours.fc1.out_features == 10


def test_a_grouped_convolution_is_pruned_step_by_step():
    model, inputs, heads = fresh("GroupedConv")
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = mv.MoEPruner(model, inputs[0], importance, ignored_layers=heads, iterative_steps=3)
    widths = []
    for _ in range(3):
        pruner.step()
        widths.append((model.a.out_channels, model.grouped.in_channels, tuple(model.grouped.weight.shape[:2])))
        assert model(*inputs).shape[1] == 4
    assert widths == [(9, 9, (9, 3)), (6, 6, (6, 2)), (6, 6, (6, 2))]


def test_a_subclass_scores_groups_its_own_way():
    class KeepsTheFirst(mv.MoEPruner):
        def estimate_importance(self, group):
            assert isinstance(group, tp.dependency.Group)
            scores = super().estimate_importance(group)
            return -scores.new_tensor(range(len(scores)))

    model, inputs, heads = fresh("Plain")
    plan = KeepsTheFirst(model, inputs[0], ignored_layers=heads).step()
    assert plan.keep["c1.weight", 0].tolist() == [0, 1, 2, 3]

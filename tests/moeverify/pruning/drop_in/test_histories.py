"""Pruned models stored and read again: histories, whole models and Torch-Pruning's own state."""

import copy
import io
import json

import pytest
import torch
import torch_pruning as tp
from both_graphs import assert_same, fresh, stock_graph
from torch import nn

import moeverify as mv
from moeverify.errors import UsageError


def our_graph(model, inputs):
    return mv.MoEDependencyGraph().build_dependency(model, inputs)


def through_a_file(value, **options):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


@pytest.mark.parametrize(
    "name", ["Plain", "Residual", "Concat", "Flatten", "Depthwise", "Norms", "Transposed", "Grouped"]
)
def test_a_checkpoint_of_history_and_weights(name):
    model, inputs, heads = fresh(name)
    pruner = mv.MoEPruner(model, inputs[0], iterative_steps=2, ignored_layers=heads)
    pruner.step()
    pruner.step()
    stored = through_a_file({"model": model.state_dict(), "pruning": pruner.pruning_history()})
    other, _, _ = fresh(name)
    graph = our_graph(other, inputs)
    graph.load_pruning_history(stored["pruning"])
    other.load_state_dict(stored["model"])
    assert_same(other, model, inputs)
    assert graph.pruning_history() == pruner.pruning_history()


@pytest.mark.parametrize("name", ["Plain", "Residual", "Concat", "Depthwise"])
def test_histories_are_exchanged_with_stock(name):
    ours, inputs, heads = fresh(name)
    pruner = mv.MoEPruner(ours, inputs[0], ignored_layers=heads)
    pruner.step()
    stock, _, _ = fresh(name)
    graph = stock_graph(stock, inputs)
    graph.load_pruning_history(pruner.pruning_history())
    assert_same(ours, stock, inputs)
    stock, _, heads = fresh(name)
    theirs = tp.pruner.BasePruner(
        stock, inputs[0], tp.importance.GroupMagnitudeImportance(p=2), ignored_layers=heads, iterative_steps=2
    )
    theirs.step()
    theirs.step()
    ours, _, _ = fresh(name)
    our_graph(ours, inputs).load_pruning_history(theirs.pruning_history())
    assert_same(ours, stock, inputs)


def test_a_history_is_plain_data():
    model, inputs, _ = fresh("Scaled")
    graph = our_graph(model, inputs)
    graph.get_pruning_group(model.scale, tp.prune_parameter_out_channels, torch.tensor([1, 4])).prune()
    graph.get_pruning_group(model.a, tp.prune_linear_out_channels, [0]).prune(record_history=False)
    history = json.loads(json.dumps(graph.pruning_history()))
    assert history == [["scale@0", True, [1, 4]]]
    other, _, _ = fresh("Scaled")
    our_graph(other, inputs).load_pruning_history(history)
    assert other.scale.shape == (6,)


def test_an_entry_that_the_model_does_not_have_is_named():
    model, inputs, _ = fresh("Plain")
    graph = our_graph(model, inputs)
    for entry in (["c9", True, [0]], ["UnwrappedParameter_0 (torch.Size([8]))", True, [0]], ["c9@0", True, [0]]):
        with pytest.raises(UsageError, match="history.*" + entry[0][:4]):
            graph.load_pruning_history([entry])
    assert graph.pruning_history() == []


def test_a_whole_pruned_model():
    model, inputs, heads = fresh("Residual")
    pruner = mv.MoEPruner(model, inputs[0], ignored_layers=heads)
    pruner.step()
    assert_same(through_a_file(model, weights_only=False), model, inputs)
    copied = copy.deepcopy(model)
    assert_same(copied, model, inputs)
    model(*inputs).sum().backward()


def test_torch_prunings_own_state():
    model, inputs, heads = fresh("Residual")
    model.extra = 8
    mv.MoEPruner(model, inputs[0], ignored_layers=heads).step()
    stored = through_a_file(tp.state_dict(model), weights_only=False)
    other, _, _ = fresh("Residual")
    tp.load_state_dict(other, state_dict=stored)
    assert other.extra == 8
    assert other.c1.out_channels == model.c1.out_channels == 4
    assert_same(other, model, inputs)
    file = io.BytesIO()
    tp.save(model, file)
    file.seek(0)
    assert_same(tp.load(file, weights_only=False), model, inputs)


def test_a_pruner_goes_on_after_loading_a_history():
    model, inputs, heads = fresh("Plain")
    first = mv.MoEPruner(model, inputs[0], pruning_ratio=0.25, ignored_layers=heads)
    first.step()
    other, _, heads = fresh("Plain")
    second = mv.MoEPruner(other, inputs[0], pruning_ratio=0.5, ignored_layers=heads)
    second.load_pruning_history(first.pruning_history())
    assert_same(other, model, inputs)
    second.step()
    assert isinstance(other.c1, nn.Conv2d)
    assert other.c1.out_channels < model.c1.out_channels
    assert len(second.pruning_history()) > len(first.pruning_history())

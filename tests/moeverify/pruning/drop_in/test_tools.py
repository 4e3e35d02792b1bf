"""``torch_pruning.utils`` on models that we pruned and on our graph."""

import sys
import types

import numpy as np
import pytest
import torch
import torch_pruning as tp
from both_graphs import fresh, stock_graph

import moeverify as mv


def pruned(kind, name):
    model, inputs, heads = fresh(name)
    kind(model, inputs[0], tp.importance.GroupMagnitudeImportance(p=2), ignored_layers=heads).step()
    return model, inputs


@pytest.mark.parametrize("name", ["Plain", "Residual", "Flatten", "Depthwise", "Norms"])
def test_operations_and_parameters_are_counted_alike(name):
    model, inputs, _ = fresh(name)
    before = tp.utils.count_ops_and_params(model, inputs[0])
    ours, _ = pruned(mv.MoEPruner, name)
    stock, _ = pruned(tp.pruner.BasePruner, name)
    assert tp.utils.count_ops_and_params(ours, inputs[0]) == tp.utils.count_ops_and_params(stock, inputs[0])
    after = tp.utils.count_ops_and_params(ours, inputs[0])
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert tp.utils.count_params(ours) == sum(p.numel() for p in ours.parameters())


def test_the_printed_comparison_shows_old_and_new_sizes():
    model, inputs, heads = fresh("Plain")
    tp.utils.print_tool.before_pruning(model)
    mv.MoEPruner(model, inputs[0], ignored_layers=heads).step()
    shown = tp.utils.print_tool.after_pruning(model, do_print=False)
    assert "(c1): Conv2d(3, 8, kernel_size=(3, 3)" in shown
    assert "=> (c1): Conv2d(3, 4, kernel_size=(3, 3)" in shown
    assert "(b1): BatchNorm2d(8, eps" in shown
    assert "=> (b1): BatchNorm2d(4, eps" in shown


@pytest.fixture
def pictures(monkeypatch):
    """The matrices that Torch-Pruning draws; matplotlib itself is not needed for that."""
    drawn = []
    figure = types.SimpleNamespace(tight_layout=lambda: None)
    axes = types.SimpleNamespace(imshow=lambda values, **_: drawn.append(values), set_title=lambda _: None)
    pyplot = types.ModuleType("matplotlib.pyplot")
    pyplot.style = types.SimpleNamespace(use=lambda _: None)
    pyplot.subplots = lambda **_: (figure, axes)
    pyplot.get_cmap = lambda _: None
    pyplot.savefig = lambda *_, **__: None
    package = types.ModuleType("matplotlib")
    package.pyplot = pyplot
    monkeypatch.setitem(sys.modules, "matplotlib", package)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    return drawn


def by_layer(graph, matrix):
    """The pairs of layer sides that a drawn matrix joins."""
    names = [graph._module2name.get(module) for module in graph.module2node]
    pairs = zip(*np.nonzero(matrix), strict=True)
    ends = lambda i: (names[i // 2], i % 2)  # noqa: E731
    return {(ends(a), ends(b)) for a, b in pairs if names[a // 2] and names[b // 2]}


@pytest.mark.parametrize("name", ["Plain", "Flatten", "Residual"])
def test_groups_are_drawn_as_stock_draws_them(name, pictures):
    model, inputs, _ = fresh(name)
    graphs = [stock_graph(model, inputs), mv.MoEDependencyGraph().build_dependency(model, inputs)]
    for graph in graphs:
        tp.utils.draw_groups(graph, "groups.png")
    theirs, mine = (by_layer(graph, matrix) for graph, matrix in zip(graphs, pictures, strict=True))
    # A norm's two sides are one here and both named in stock; outputs and inputs of the layers around it are alike.
    layers = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    inside = lambda pairs: {pair for pair in pairs if {name for name, _ in pair} <= layers}  # noqa: E731
    assert inside(mine)
    assert inside(mine) == inside(theirs)


def test_other_pictures_are_drawn(pictures):
    model, inputs, _ = fresh("Scaled")
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    tp.utils.draw_computational_graph(graph, "graph.png")
    tp.utils.draw_dependency_graph(graph, "dependencies.png")
    assert [matrix.shape for matrix in pictures] == [(3, 3), (6, 6)]

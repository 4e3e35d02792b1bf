"""Groups as scripts use them: read, shown, changed and pruned."""

import warnings

import numpy as np
import pytest
import torch
import torch_pruning as tp
from both_graphs import HEADS, assert_same, fresh, shapes, stock_graph
from torch import nn
from torch_pruning.dependency import Dependency

import moeverify as mv
from moeverify.errors import UsageError


def our_graph(model, inputs, **options):
    return mv.MoEDependencyGraph().build_dependency(model, inputs, **options)


@pytest.mark.parametrize(
    "idxs", [0, np.int64(3), torch.tensor(3), [1, 5], (1, 5), np.array([1, 5]), torch.tensor([1, 5])]
)
def test_indices_of_any_kind(idxs):
    stock, inputs, _ = fresh("Plain")
    plain = [int(idxs)] if np.ndim(idxs) == 0 else [int(i) for i in idxs]
    stock_graph(stock, inputs).get_pruning_group(stock.c1, tp.prune_conv_out_channels, plain).prune()
    ours, _, _ = fresh("Plain")
    group = our_graph(ours, inputs).get_pruning_group(ours.c1, tp.prune_conv_out_channels, idxs)
    assert group[0].idxs == plain
    group.prune()
    assert_same(ours, stock, inputs)


def test_positions_that_do_not_exist_are_named():
    model, inputs, _ = fresh("Plain")
    graph = our_graph(model, inputs)
    for wrong in (-1, 8):
        with pytest.raises(UsageError, match=f"c1.weight has positions 0 to 7 along dimension 0, not {wrong}"):
            graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [wrong])


def test_an_empty_group_prunes_nothing():
    model, inputs, _ = fresh("Plain")
    before = shapes(model)
    graph = our_graph(model, inputs)
    group = graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [])
    assert graph.check_pruning_group(group)
    group.prune()
    assert shapes(model) == before
    assert graph.pruning_history() == []


def test_a_group_prints_its_members_and_root():
    model, inputs, _ = fresh("Plain")
    group = our_graph(model, inputs).get_pruning_group(model.c1, tp.prune_conv_out_channels, [2])
    assert str(group).count("len(idxs)=1") == len(group) == 3
    assert "prune_out_channels on b1" in str(group)
    assert "(Pruning Root)" in group.details()
    assert group.has_dep(group[1].dep)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("GroupedConv", "Grouped")])
def test_full_groups_number_their_roots_as_stock_does(name):
    model, inputs, _ = fresh(name)
    stock = stock_graph(model, inputs)
    groups = list(our_graph(model, inputs).get_all_groups())
    assert groups
    for group in groups:
        theirs = stock.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, list(group[0].idxs))
        assert group[0].idxs == theirs[0].idxs == list(range(len(theirs[0].idxs)))
        for dep, idxs in group:
            same = next(i for i in theirs if i.dep.target.module is dep.target.module and i.dep.handler == dep.handler)
            mine = next(i for i in group if i.dep is dep)
            expected = sorted(zip(same.idxs, same.root_idxs, strict=True))
            assert sorted(zip(idxs, mine.root_idxs, strict=True)) == expected


def test_an_item_added_from_outside_is_cut_with_all_its_tensors():
    model, inputs, _ = fresh("Plain")
    graph = our_graph(model, inputs)
    group = graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0])
    root, other = graph.module2node[model.c1], graph.module2node[model.b2]
    functions = graph.get_pruner_of_module(model.b2)
    group.add_dep(Dependency(group[0].dep.handler, functions.prune_out_channels, root, other), [4])
    group.prune()
    assert model.b2.weight.shape == model.b2.bias.shape == model.b2.running_mean.shape == (11,)
    assert model.b2.running_var.shape == (11,)
    assert model.b2.num_features == 11


def test_items_left_out_or_emptied_stay():
    model, inputs, _ = fresh("Plain")
    graph = our_graph(model, inputs)
    group = graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0])
    del group.items[[dep.target.module for dep, _ in group].index(model.c2)]
    group[1] = (group[1].dep, [])
    group.prune()
    assert (model.c1.out_channels, model.b1.num_features, model.c2.in_channels) == (7, 8, 8)


def test_a_tied_layer_as_the_root():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(torch.relu(self.body(self.embed(ids))) + self.embed(ids))

    model = Tied().eval()
    graph = our_graph(model, (torch.arange(6).view(2, 3),))
    graph.get_pruning_group(model.head, tp.prune_linear_in_channels, [3]).prune()
    assert model.head.weight is model.embed.weight
    assert model.head.weight.shape == (20, 7)
    assert graph.pruning_history() == [["head", False, [3]]]
    assert model(torch.arange(6).view(2, 3)).shape == (2, 3, 20)


def test_old_way_to_prune_a_group():
    model, inputs, _ = fresh("Plain")
    graph = our_graph(model, inputs)
    with pytest.warns(UserWarning, match="deprecated"):
        graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0]).exec()
    graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0])()
    assert model.c1.out_channels == 6


def test_a_layer_outside_the_graph_and_one_without_gradients():
    model, inputs, _ = fresh("Plain")
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # Torch-Pruning traces nothing then
    graph = our_graph(model, inputs)
    with pytest.raises(ValueError, match="not part of the model"):
        graph.get_pruning_group(nn.Linear(3, 3), tp.prune_linear_out_channels, [0])
    graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0]).prune()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_functions_for_single_layers_beside_groups():
    """Low-level functions leave the neighbours alone; the graph is built again afterwards."""
    model, inputs, _ = fresh("Plain")
    tp.prune_conv_out_channels(model.c1, idxs=[0, 1])
    tp.prune_batchnorm_out_channels(model.b1, idxs=[0, 1])
    tp.prune_conv_in_channels(model.c2, idxs=[0, 1])
    graph = our_graph(model, inputs)
    graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [5]).prune()
    assert model.c1.out_channels == 5
    assert model(*inputs).shape == (2, 5)


def test_channel_counts_are_asked_of_the_graph():
    model, inputs, _ = fresh("Scaled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = stock_graph(model, inputs, unwrapped_parameters=[(model.scale, 0)])
    ours = our_graph(model, inputs, unwrapped_parameters=[(model.scale, 0)])
    for graph in (stock, ours):
        assert (graph.get_out_channels(model.a), graph.get_in_channels(model.b)) == (8, 8)
        assert graph.get_out_channels(graph.module2node[model.a]) == 8
        assert graph.get_out_channels(model.scale) == 8
        assert ours.is_in_channel_pruning_fn(tp.prune_linear_in_channels)

"""Every argument of ``tp.pruner.BasePruner`` means the same, and what the pruner adds to them."""

import inspect

import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Flatten, Grouped, GroupedConv, Plain
from small_nets import Chain, Expert, TinyMoE, build
from tiny_moe import TOKENS, prune_moe, widths
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError


def test_same_arguments_in_the_same_order():
    stock = list(inspect.signature(tp.pruner.BasePruner.__init__).parameters)
    ours = list(inspect.signature(mv.MoEPruner.__init__).parameters)
    assert ours[: len(stock)] == stock
    defaults = inspect.signature(tp.pruner.BasePruner.__init__).parameters
    for name, parameter in list(inspect.signature(mv.MoEPruner.__init__).parameters.items())[4 : len(stock)]:
        expected = defaults[name].default
        empty = expected in ({}, []) and parameter.default is None
        assert empty or parameter.default == expected or list(parameter.default) == list(expected), name
    build_dependency = [*inspect.signature(tp.DependencyGraph.build_dependency).parameters]
    assert [*inspect.signature(mv.MoEDependencyGraph.build_dependency).parameters] == build_dependency


def test_ratio_by_layer_path_and_tuple():
    model = build(Plain)
    mv.MoEPruner(model, IMAGE[0], pruning_ratio=0, pruning_ratio_dict={model.c1: 0.25, ("c2",): 0.75}).step()
    assert (model.c1.out_channels, model.c2.out_channels) == (6, 3)
    joint = build(Chain, depth=3, width=16)
    with torch.no_grad():
        joint.layers[0].weight *= 100
    mv.MoEPruner(
        joint,
        torch.randn(2, 16),
        tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
        global_pruning=True,
        pruning_ratio=0,
        pruning_ratio_dict={(joint.layers[0], joint.layers[1]): 0.25},
    ).step()
    assert (joint.layers[0].out_features, joint.layers[1].out_features) == (16, 8)


def test_ignored_layers_may_be_types_and_paths():
    model = build(TinyMoE, inner=16)
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, ignored_layers=[Expert])
    with pytest.raises(PruningRefused, match="nothing can be pruned"):
        pruner.step()
    prune_moe(model, ignored_layers=["embed", "layers.0.shared_expert"])
    assert widths(model) == [8] * 4
    assert model.embed.out_features == 8
    with pytest.raises(UsageError, match="no module 'nowhere'"):
        mv.MoEPruner(model, TOKENS, ignored_layers=["nowhere"])
    with pytest.raises(UsageError, match="neither a module, nor a path"):
        mv.MoEPruner(model, TOKENS, ignored_layers=[3])


def test_round_to_keeps_multiples_or_refuses():
    assert widths(prune_moe(build(TinyMoE, inner=20), round_to=4, pruning_ratio=0.45)) == [8] * 4
    model = build(TinyMoE, inner=6)
    with pytest.raises(PruningRefused, match=r"nothing can be pruned: routed_experts of .* multiple of round_to=8"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, round_to=8, ratios={"hidden": 0, "shared_experts": 0}).step()
    with pytest.raises(PruningRefused, match=r"round_to=8 would remove all 6 units of routed_experts of layers\.0"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0, round_to=8, ratios={"routed_experts": 0.5}).step()
    assert widths(model) == [6] * 4
    with pytest.raises(UsageError, match="round_to"):
        mv.MoEPruner(model, TOKENS, round_to=0)


def test_channel_groups_lose_the_same_channels_or_refuse():
    for kind, layer, name in ((GroupedConv, "grouped", "out_channels"), (Grouped, "a", "out_channels")):
        model = build(kind)
        size = model.a.out_channels
        mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5).step()
        assert getattr(getattr(model, layer), name) == model.a.out_channels == size // 2
        model(*IMAGE)
    model = build(Flatten)
    groups = {"out_channel_groups": {model.fc1: 5}, "ignored_layers": [model.c]}
    kept = mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, **groups).step().keep["fc1.weight", 0].tolist()
    assert kept in ([*range(0, 10, 2)], [*range(1, 10, 2)])
    model = build(Flatten)
    with pytest.raises(PruningRefused, match="3 channel groups do not divide the 10 units"):
        mv.MoEPruner(model, IMAGE[0], out_channel_groups={model.fc1: 3}).step()
    assert model.fc1.out_features == 10


def test_old_names_are_understood():
    model = build(Plain)
    with pytest.warns(DeprecationWarning, match="ch_sparsity is Torch-Pruning's old name of pruning_ratio"):
        mv.MoEPruner(model, IMAGE[0], ch_sparsity=0.25).step()
    assert model.c1.out_channels == 6


def test_only_layers_of_the_root_types_are_pruned():
    model = build(Flatten)
    mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5, root_module_types=[nn.Conv2d]).step()
    assert (model.c.out_channels, model.fc1.out_features) == (3, 10)


class Table(nn.Module):
    """Channels that nothing but an embedding gives, as a table of n-grams does."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, tokens):
        return self.out(self.table(tokens))


def test_an_embedding_counts_as_a_linear_layer():
    model, ids = Table(), torch.arange(6)[None]
    mv.MoEPruner(model, ids, pruning_ratio=0.5).step()
    assert (model.table.embedding_dim, model.out.in_features) == (4, 4)
    model = Table()
    with pytest.raises(PruningRefused, match="cuts no output of the root_module_types"):
        mv.MoEPruner(model, ids, pruning_ratio=0.5, root_module_types=[nn.Conv2d]).step()


def test_of_tied_weights_either_name_is_left_alone():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = torch.nn.Linear(6, 8, bias=False), torch.nn.Linear(6, 8, bias=False)
            self.again.weight, self.last = self.first.weight, torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.first(x) + self.again(2 * x))

    for ignored, cuts in ([], 1), (["first"], 0), (["again"], 0):
        pruner = mv.MoEPruner(Tied(), torch.randn(2, 6), pruning_ratio=0.5, ignored_layers=ignored)
        assert len(pruner.plan().cuts) == cuts, ignored

"""Against stock Torch-Pruning, on networks without experts: the same groups where it is right, right ones elsewhere."""

import copy
import warnings
from unittest import mock

import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, NETS, ROW, Dense, Scaled
from torch import nn
from torch_pruning.pruner.algorithms import base_pruner

import moeverify as mv
from moeverify.errors import PruningRefused

# Layers whose groups differ, and why; docs/from-torch-pruning.md says the same in words.
INPUT_OF_MODEL = "the model's input is read by several layers, all of which lose the channel"
CONCATENATED_INPUT = "stock takes a concatenated model input for nothing, so all its offsets are wrong"
WHOLE_GROUPS = "channel groups lose the same channels in each group"
DIFFERENT = {
    "Concat": ({"a in", "b in"}, INPUT_OF_MODEL),
    "Dense": ({f"layers.{i} {side}" for i in range(3) for side in ("in", "out")} | {"head in"}, CONCATENATED_INPUT),
    "GroupedConv": ({"a out", "grouped out", "grouped in", "b in"}, WHOLE_GROUPS),
    "Grouped": ({"a out", "b in"}, WHOLE_GROUPS),
}


def build(name):
    kind, inputs = NETS[name]
    torch.manual_seed(0)
    model = kind().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    return model, inputs


def graphs(model, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = tp.DependencyGraph().build_dependency(model, inputs if len(inputs) > 1 else inputs[0])
    return stock, mv.MoEDependencyGraph().build_dependency(model, inputs)


def members(graph, group):
    """``(layer, side, indices)`` of every layer or parameter in a group; stock's nodes of operations left out."""
    found = set()
    for dep, idxs in group:
        target = dep.target.module
        if isinstance(target, nn.Parameter):
            found.add((tuple(target.shape), "parameter", tuple(sorted(set(idxs)))))
        elif isinstance(target, nn.Module) and next(target.parameters(), None) is not None:
            side = "out" if graph.is_out_channel_pruning_fn(dep.handler) else "in"
            found.add((graph._module2name[target], side, tuple(sorted(set(idxs)))))
    return found


def sides(graph):
    for name, layer in graph.model.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            functions = graph.get_pruner_of_module(layer)
            yield f"{name} out", layer, functions.prune_out_channels, functions.get_out_channels(layer)
            yield f"{name} in", layer, functions.prune_in_channels, functions.get_in_channels(layer)


@pytest.mark.parametrize("name", NETS)
def test_groups_are_those_of_stock(name):
    stock, ours = graphs(*build(name))
    different, _ = DIFFERENT.get(name, (set(), ""))
    seen = set()
    for side, layer, function, size in sides(ours):
        for idxs in ([0], [size - 1, 1]):
            expected = members(stock, stock.get_pruning_group(layer, function, list(idxs)))
            if members(ours, ours.get_pruning_group(layer, function, list(idxs))) != expected:
                seen.add(side)
    assert seen == different


@pytest.mark.parametrize("name", [name for name in NETS if name not in DIFFERENT])
def test_all_groups_are_those_of_stock(name):
    stock, ours = graphs(*build(name))
    outputs = {side.split()[0] for side, *_ in sides(ours)} & {"fc", "fc2", "c", "b", "head", "left", "right", "a"}
    expected = [members(stock, group) for group in stock.get_all_groups()]
    found = [members(ours, group) for group in ours.get_all_groups()]
    assert found
    assert all(group in expected for group in found)
    missing = [group for group in expected if group not in found]
    assert all(len(group) == 1 and next(iter(group))[0] in outputs for group in missing)  # the model's own outputs


def silence(model, removed):
    """Set to zero what was removed."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for (name, dim), gone in removed.items():
            tensors[name].index_fill_(dim, torch.as_tensor(gone), 0.0)


def values(output):
    return (
        list(output.values()) if isinstance(output, dict) else list(output) if isinstance(output, tuple) else [output]
    )


@pytest.mark.parametrize("name", [name for name in NETS if name != "Split"])  # whose sizes are written into forward
def test_pruned_network_computes_what_the_silenced_one_does(name):
    original, inputs = build(name)
    pruned_any = False
    for number in range(len(list(mv.MoEDependencyGraph().build_dependency(original, inputs).get_all_groups()))):
        model, silenced = copy.deepcopy(original).double(), copy.deepcopy(original).double()
        given = [x.double() if x.is_floating_point() else x for x in inputs]
        graph = mv.MoEDependencyGraph().build_dependency(model, given)
        group = list(graph.get_all_groups())[number]
        part = graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, [1])
        if any(isinstance(dep.target.module, nn.LayerNorm | nn.GroupNorm) for dep, _ in part):
            part.prune()  # the statistics change with the channels: it must run
            model(*given)
            continue
        silence(silenced, part.removed())
        part.prune()
        pruned_any = True
        for ours, reference, before in zip(
            values(model(*given)), values(silenced(*given)), values(original.double()(*given)), strict=True
        ):
            assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-12)
            assert ours.shape == before.shape
    assert pruned_any or name in ("TextMLP", "Grouped")


def test_dense_connections_have_their_offsets():
    graph = mv.MoEDependencyGraph().build_dependency(Dense().eval(), IMAGE)
    group = graph.get_pruning_group(graph.model.layers[1], tp.prune_conv_out_channels, [2])
    assert members(graph, group) == {("layers.1", "out", (2,)), ("layers.2", "in", (9,)), ("head", "in", (9,))}


def test_group_items_carry_what_importances_read():
    model, inputs = build("Flatten")
    stock, ours = graphs(model, inputs)
    for importance in (
        tp.importance.GroupMagnitudeImportance(p=1),
        tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None),
        tp.importance.LAMPImportance(),
    ):
        whole = list(range(6))
        expected = importance(stock.get_pruning_group(model.c, tp.prune_conv_out_channels, whole))
        assert torch.allclose(importance(ours.get_pruning_group(model.c, tp.prune_conv_out_channels, whole)), expected)
    item = ours.get_pruning_group(model.c, tp.prune_conv_out_channels, [2, 1])[1]
    assert item.dep.target.module is model.fc1
    assert item.dep.handler == tp.prune_linear_in_channels
    assert sorted(item.idxs) == list(range(16, 48))
    assert {root: item.root_idxs.count(root) for root in item.root_idxs} == {1: 16, 2: 16}


@pytest.mark.parametrize("kind", ["BasePruner", "GroupNormPruner", "GrowingRegPruner", "BNScalePruner"])
def test_stock_pruners_run_on_this_graph(kind):
    expected, _ = build("Residual")
    model = copy.deepcopy(expected)
    options = {"importance": tp.importance.GroupMagnitudeImportance(p=2), "pruning_ratio": 0.5}
    stock = getattr(tp.pruner, kind)(expected, IMAGE[0], ignored_layers=[expected.fc], **options)
    with mock.patch.object(base_pruner.dependency, "DependencyGraph", mv.MoEDependencyGraph):
        ours = getattr(tp.pruner, kind)(model, IMAGE[0], ignored_layers=[model.fc], **options)
    assert isinstance(ours.DG, mv.MoEDependencyGraph)
    model(IMAGE[0]).sum().backward()
    ours.update_regularizer()
    ours.regularize(model, *([None] if kind == "BasePruner" else []))
    for pruner in (stock, ours):
        pruner.step()
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    assert torch.equal(model(IMAGE[0]), expected(IMAGE[0]))


def test_our_pruner_keeps_the_same_channels_as_stock():
    for name, head in (("Residual", "fc"), ("Flatten", "fc2"), ("Depthwise", "b"), ("SqueezeExcite", "b")):
        expected, inputs = build(name)
        model = copy.deepcopy(expected)
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tp.pruner.BasePruner(expected, inputs[0], importance, ignored_layers=[getattr(expected, head)]).step()
        mv.MoEPruner(model, inputs[0], importance, ignored_layers=[getattr(model, head)]).step()
        assert torch.equal(model(*inputs), expected(*inputs))


def test_a_history_is_replayed_on_another_copy():
    model, inputs = build("Residual")
    other = copy.deepcopy(model)
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    graph.get_pruning_group(model.stem, tp.prune_conv_out_channels, [0, 5]).prune()
    graph.get_pruning_group(model.stem, tp.prune_conv_out_channels, [0]).prune()
    graph.get_pruning_group(model.c2, tp.prune_conv_out_channels, [3]).exec()
    history = graph.pruning_history()
    assert history == [["stem", True, [0, 5]], ["stem", True, [0]], ["c2", True, [3]]]
    again = mv.MoEDependencyGraph().build_dependency(other, inputs)
    again.load_pruning_history(history)
    assert torch.equal(model(*inputs), other(*inputs))
    assert again.pruning_history() == history
    assert model.stem.weight.shape[0] == 5


def test_prune_other_channels_of_a_group_and_check_it():
    model, inputs = build("Plain")
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    group = next(iter(graph.get_all_groups(ignored_layers=[model.fc])))
    assert not graph.check_pruning_group(group)  # all channels: nothing would be left
    group.prune(idxs=[1, 2])
    assert model.c1.weight.shape[0] == model.b1.num_features == model.c2.in_channels == 6
    assert graph.check_pruning_group(graph.get_pruning_group(model.c1, tp.prune_conv_out_channels, [0]))
    model(*inputs)


def test_outputs_and_inputs_are_cut_when_asked_for_by_name():
    model, inputs = build("Plain")
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
    assert all(
        "fc" not in {name for name, side, _ in members(graph, g) if side == "out"} for g in graph.get_all_groups()
    )
    graph.get_pruning_group(model.fc, tp.prune_linear_out_channels, [0]).prune()
    graph.get_pruning_group(model.c1, tp.prune_conv_in_channels, [2]).prune()
    assert model(inputs[0][:, :2]).shape == (2, 4)


def test_loose_parameters_are_found_and_can_be_excluded():
    model, _ = build("Scaled")
    graph = mv.MoEDependencyGraph().build_dependency(model, ROW, unwrapped_parameters=[(model.scale, 0)])
    group = graph.get_pruning_group(model.a, tp.prune_linear_out_channels, [3])
    assert any(dep.target.module is model.scale and idxs == [3] for dep, idxs in group)
    scale = model.scale
    group.prune()
    assert model.scale is scale
    assert scale.shape == (7,)
    table = nn.Parameter(torch.randn(4, 8))

    class Table(Scaled):
        def __init__(self):
            super().__init__()
            self.table = table

        def forward(self, x):
            return self.b(torch.relu(self.a(x)) @ self.table.T @ self.table)

    held = mv.MoEDependencyGraph().build_dependency(Table(), ROW, unwrapped_parameters={table: 1})
    frozen = {(f.parameter, f.dim): f.reason for f in held.couplings.frozen}
    assert "only dimension 1" in frozen["table", 0]
    free = mv.MoEDependencyGraph().build_dependency(Table(), ROW)
    assert ("table", 0) not in {(f.parameter, f.dim) for f in free.couplings.frozen}


def test_ignored_layers_and_parameters_stay():
    model, _ = build("Scaled")
    ignored = mv.MoEDependencyGraph().build_dependency(model, ROW, ignored_params=[model.scale])
    assert list(ignored.get_all_groups()) == []
    layers = mv.MoEDependencyGraph().build_dependency(model, ROW, ignored_layers=[model.a])
    assert list(layers.get_all_groups()) == []
    assert len(list(mv.MoEDependencyGraph().build_dependency(model, ROW).get_all_groups())) == 1


def test_forward_fn_and_output_transform():
    model, inputs = build("Split")
    calls = []

    def forward(network, given):
        calls.append(network)
        return network(*given)

    graph = mv.MoEDependencyGraph().build_dependency(
        model, inputs, forward_fn=forward, output_transform=lambda out: out[0]
    )
    assert calls == [model]
    with pytest.raises(PruningRefused, match="never used by a recorded operation"):
        graph.get_pruning_group(model.b, tp.prune_conv_out_channels, [0])


def test_works_without_gradients_and_ends_in_evaluation_mode():
    model, inputs = build("Plain")
    model.train()
    model.b1.eval()
    with torch.no_grad():
        graph = mv.MoEDependencyGraph().build_dependency(model, inputs)
        next(iter(graph.get_all_groups())).prune([0])
    assert not any(module.training for module in model.modules())
    model(inputs[0][:1])  # a BatchNorm takes a single row only in this mode
    assert all(p.requires_grad for p in model.parameters())

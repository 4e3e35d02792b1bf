"""How scripts hand over a model: its inputs, its forward, its loose parameters, and what is to stay."""

import collections

import pytest
import torch
import torch_pruning as tp
from both_graphs import assert_same, fresh, shapes, stock_graph
from torch import nn

import moeverify as mv

ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, left, right=None):
        return self.c(torch.relu(self.a(left)) + self.b(left if right is None else right))


class Listed(ByName):
    """Takes its inputs as one list, as detectors take feature maps."""

    def forward(self, maps):
        left, right = maps
        return super().forward(left, right)


Pair = collections.namedtuple("Pair", ["left", "right"])


def cut(graph, model):
    graph.get_pruning_group(model.a, tp.prune_linear_out_channels, [1, 2]).prune()


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ByName, {"left": ROWS, "right": ROWS + 1}),
        (ByName, collections.OrderedDict(right=ROWS, left=ROWS)),
        (ByName, [ROWS, ROWS]),
        (ByName, (ROWS,)),
        (ByName, [ROWS]),
        (Listed, [ROWS, ROWS]),
        (Listed, ([ROWS, ROWS],)),
        (Listed, [[ROWS, ROWS]]),
        (Listed, Pair(ROWS, ROWS)),
    ],
)
def test_example_inputs_of_every_form(kind, given):
    ours, stock = made(kind), made(kind)
    cut(mv.MoEDependencyGraph().build_dependency(ours, given), ours)
    cut(tp.DependencyGraph().build_dependency(stock, given), stock)
    assert_same(ours, stock, (ROWS,) if kind is ByName else ([ROWS, ROWS],))
    mv.MoEPruner(ours, given, ignored_layers=[ours.c]).step()
    assert ours.a.out_features == 3


def test_forward_fn_and_output_transform():
    def forward_fn(model, given):
        return {"out": model(given["x"], given["x"]), "note": "text", "none": None}

    ours, stock = made(ByName), made(ByName)
    options = {"forward_fn": forward_fn, "output_transform": lambda found: found["out"].sum()}
    cut(mv.MoEDependencyGraph().build_dependency(ours, {"x": ROWS}, **options), ours)
    cut(tp.DependencyGraph().build_dependency(stock, {"x": ROWS}, **options), stock)
    assert_same(ours, stock, (ROWS,))
    pruner = mv.MoEPruner(ours, {"x": ROWS}, ignored_layers=[ours.c], **options)
    pruner.step()
    assert ours.a.out_features == 3


class Patches(nn.Module):
    """A class token and positions, joined along the sequence, and a scale by layer, as vision transformers have."""

    def __init__(self, width=8):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 6, width))
        self.scale = nn.Parameter(torch.randn(width, 1))
        self.embed, self.up, self.down = nn.Linear(4, width), nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.down(torch.relu(self.up(x))) * self.scale.flatten()
        return self.head(x[:, 0])


PATCHES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("given", ["pairs", "mapping", "nothing"])
def test_loose_parameters_are_cut_as_by_torch_pruning(given):
    models = []
    for make in (mv.MoEDependencyGraph, tp.DependencyGraph):
        model = made(Patches)
        dims = {model.token: 2, model.positions: 2, model.scale: 0}
        # Torch-Pruning takes pairs only, although it asks for a mapping.
        pairs = list(dims.items())
        options = {"mapping": dims if make is mv.MoEDependencyGraph else pairs, "pairs": pairs, "nothing": None}
        graph = make().build_dependency(model, PATCHES, unwrapped_parameters=options[given], verbose=False)
        graph.get_pruning_group(model.embed, tp.prune_linear_out_channels, [0, 7]).prune()
        models.append(model)
    assert_same(*models, (PATCHES,))
    assert models[0].positions.shape == (1, 6, 6)
    assert models[0].scale.shape == (6, 1)


def test_a_loose_parameter_as_the_root_and_as_an_ignored_one():
    model = made(Patches)
    graph = mv.MoEDependencyGraph().build_dependency(model, PATCHES, unwrapped_parameters=[(model.positions, 2)])
    assert {model.token, model.positions, model.scale} <= set(graph.module2node)
    graph.get_pruning_group(model.positions, tp.prune_parameter_out_channels, [3]).prune()
    assert (model.embed.out_features, model.head.in_features) == (7, 7)
    pruner = mv.MoEPruner(model, PATCHES, ignored_layers=[model.positions, model.head])
    pruner.step()
    assert (model.embed.out_features, model.up.out_features) == (7, 6)
    assert model(PATCHES).shape == (2, 3)


def test_unused_parameters_and_layers_stay():
    model = made(Patches)
    model.spare, model.unused = nn.Linear(3, 3), nn.Parameter(torch.empty(10))
    stock = made(Patches)
    stock.spare, stock.unused = nn.Linear(3, 3), nn.Parameter(torch.empty(10))
    graph = mv.MoEDependencyGraph().build_dependency(model, PATCHES)
    graph.get_pruning_group(model.up, tp.prune_linear_out_channels, [0]).prune()
    other = stock_graph(stock, (PATCHES,))
    other.get_pruning_group(stock.up, tp.prune_linear_out_channels, [0]).prune()
    assert shapes(model) == shapes(stock)
    assert model.unused not in graph.module2node


@pytest.mark.parametrize("by_type", [False, True])
def test_ignored_layers_keep_their_outputs(by_type):
    model, inputs, heads = fresh("Residual")
    stock, _, stock_heads = fresh("Residual")
    ignored = [type(model.b1), *heads] if by_type else [model.c1, *heads]
    pruner = mv.MoEPruner(model, inputs[0], ignored_layers=ignored)
    pruner.step()
    reference = [stock.c1, *stock_heads]
    tp.pruner.BasePruner(stock, inputs[0], tp.importance.GroupMagnitudeImportance(), ignored_layers=reference).step()
    assert shapes(model) == shapes(stock)
    assert model.c1.out_channels == 8
    graph = mv.MoEDependencyGraph().build_dependency(model, inputs, ignored_layers=[model.c2])
    assert all(
        dep.target.module is not model.c2 or dep.handler != tp.prune_conv_out_channels
        for group in graph.get_all_groups(ignored_layers=[model.stem])
        for dep, _ in group
    )

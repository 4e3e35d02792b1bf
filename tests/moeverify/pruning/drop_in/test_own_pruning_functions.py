"""Layers with a registered pruning function that knows no sizes, as those of many scripts."""

import copy

import pytest
import torch
import torch_pruning as tp
from both_graphs import assert_same, stock_graph
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused

ROWS = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))


class Shift(nn.Module):
    """A scale by channel that no library knows; ``axis`` holds the channels."""

    def __init__(self, width, axis=-1):
        super().__init__()
        self.table, self.axis = nn.Parameter(torch.randn(3, width)), axis

    def forward(self, x):
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return x * self.table.prod(0).cos().view(shape)


class Sizeless(tp.pruner.BasePruningFunc):
    """Knows how to cut a ``Shift`` and asks nobody how wide it is."""

    def prune_out_channels(self, layer, idxs):
        kept = [i for i in range(layer.table.shape[1]) if i not in idxs]
        layer.table = nn.Parameter(layer.table.data[:, kept])
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer):
        return self.width  # there is no such attribute

    get_in_channels = get_out_channels


class Wordless(Sizeless):
    def get_out_channels(self, layer):
        return None

    get_in_channels = get_out_channels


class Sized(Sizeless):
    """What Torch-Pruning wants to be told wherever it follows a view."""

    def get_out_channels(self, layer):
        return layer.table.shape[1]

    get_in_channels = get_out_channels


def rows_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), Shift(8), nn.ReLU(), nn.Linear(8, 3)), ROWS, tp.prune_linear_out_channels


def image_net():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Shift(8, axis=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    return net, IMAGE, tp.prune_conv_out_channels


@pytest.mark.parametrize("functions", [Sizeless, Wordless])
@pytest.mark.parametrize("make", [rows_net, image_net])
def test_a_function_without_sizes_cuts_what_stock_cuts(make, functions):
    ours, x, root = make()
    stock = copy.deepcopy(ours).eval()
    graph = stock_graph(stock, (x,), customized_pruners={Shift: Sized()})
    graph.get_pruning_group(stock[0], root, [1, 6]).prune()
    graph = mv.MoEDependencyGraph().build_dependency(ours, x, customized_pruners={Shift: functions()})
    for lost in ([1], [5]):  # one after the other: its width is another one the second time
        graph.get_pruning_group(ours[0], root, lost).prune()
    assert ours[1].table.shape == (3, 6)
    assert_same(ours, stock, (x,))


def test_registered_before_the_graph_is_built():
    model, x, root = rows_net()
    graph = mv.MoEDependencyGraph()
    graph.register_customized_layer(Shift, Sizeless())
    group = graph.build_dependency(model, x).get_pruning_group(model[0], root, [0])
    assert graph.is_out_channel_pruning_fn(group[0].dep.handler)
    group.prune()
    assert model[1].table.shape == (3, 7)
    pruner = mv.MoEPruner(model, x, pruning_ratio=0.5, customized_pruners={Shift: Sizeless()})
    pruner.step()
    assert model[1].table.shape == (3, 3)


def test_a_layer_that_the_forward_leaves_out_is_never_asked():
    model, x, root = rows_net()
    model.spare = Shift(8)
    model.forward = lambda given: nn.Sequential(*list(model.children())[:4])(given)
    graph = mv.MoEDependencyGraph().build_dependency(model, x, customized_pruners={Shift: Sizeless()})
    graph.get_pruning_group(model[0], root, [2]).prune()
    assert model[1].table.shape == (3, 7)
    assert model.spare.table.shape == (3, 8)


class Project(nn.Module):
    """A layer with inputs and outputs of its own; its weight is written the other way round."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.matrix


class TwoSides(tp.pruner.BasePruningFunc):
    def prune_out_channels(self, layer, idxs):
        return self._keep(layer, idxs, 1)

    def prune_in_channels(self, layer, idxs):
        return self._keep(layer, idxs, 0)

    def _keep(self, layer, idxs, axis):
        kept = [i for i in range(layer.matrix.shape[axis]) if i not in idxs]
        layer.matrix = nn.Parameter(layer.matrix.data.index_select(axis, torch.tensor(kept)))
        return layer

    def get_out_channels(self, layer):
        raise NotImplementedError

    get_in_channels = get_out_channels


class TwoSizedSides(TwoSides):
    def get_out_channels(self, layer):
        return layer.matrix.shape[1]

    def get_in_channels(self, layer):
        return layer.matrix.shape[0]


def test_inputs_and_outputs_are_counted_apart():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Project(8, 5), nn.Linear(5, 2)).eval()
    stock = copy.deepcopy(model)
    graph = stock_graph(stock, (ROWS,), customized_pruners={Project: TwoSizedSides()})
    graph.get_pruning_group(stock[0], tp.prune_linear_out_channels, [3]).prune()
    graph.get_pruning_group(stock[3], tp.prune_linear_in_channels, [0, 2]).prune()
    graph = mv.MoEDependencyGraph().build_dependency(model, ROWS, customized_pruners={Project: TwoSides()})
    graph.get_pruning_group(model[0], tp.prune_linear_out_channels, [3]).prune()
    graph.get_pruning_group(model[3], tp.prune_linear_in_channels, [0, 2]).prune()
    assert model[2].matrix.shape == (7, 3)
    assert_same(model, stock, (ROWS,))


def test_a_function_with_one_side_for_two_widths_is_left_alone():
    class OneSide(TwoSides):
        prune_in_channels = TwoSides.prune_out_channels

    model = nn.Sequential(nn.Linear(6, 8), Project(8, 5), nn.Linear(5, 2)).eval()
    graph = mv.MoEDependencyGraph().build_dependency(model, ROWS, customized_pruners={Project: OneSide()})
    with pytest.raises(PruningRefused, match="sizes differ"):
        graph.get_pruning_group(model[0], tp.prune_linear_out_channels, [3])
    assert model[1].matrix.shape == (8, 5)


class Narrow(nn.Linear):
    pass


def test_the_nearest_registered_type_cuts_a_layer():
    calls = []

    class Noted(tp.function.LinearPruner):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def prune_out_channels(self, layer, idxs):
            calls.append((self.name, "out"))
            return super().prune_out_channels(layer, idxs)

        def prune_in_channels(self, layer, idxs):
            calls.append((self.name, "in"))
            return super().prune_in_channels(layer, idxs)

    model = nn.Sequential(Narrow(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    functions = {nn.Linear: Noted("linear"), Narrow: Noted("narrow")}
    graph = mv.MoEDependencyGraph().build_dependency(model, ROWS, customized_pruners=functions)
    group = graph.get_pruning_group(model[0], functions[Narrow].prune_out_channels, [7])
    assert [dep.handler.__self__.name for dep, _ in group] == ["narrow", "linear"]
    group.prune()
    assert sorted(calls) == [("linear", "in"), ("narrow", "out")]
    assert model(ROWS).shape == (1, 3)


def test_a_batch_norm_takes_a_single_row_afterwards():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    mv.MoEDependencyGraph().build_dependency(model, ROWS)
    assert not model[1].training
    assert model(ROWS).shape == (1, 3)
    model.train()
    mv.MoEPruner(model, ROWS, pruning_ratio=0.5).step()
    assert model(ROWS).shape == (1, 3)

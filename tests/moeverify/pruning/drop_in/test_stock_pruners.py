"""Torch-Pruning's own pruners and importances on our graph: the same gradients, scores and channels."""

import copy
import warnings
from itertools import product

import pytest
import torch
import torch_pruning as tp
from both_graphs import HEADS, assert_same, fresh, shapes, stock_graph, stock_pruner_on_our_graph
from conv_nets import ROW, Chunked
from torch import nn

import moeverify as mv

# Torch-Pruning couples the channels of these otherwise: test_drop_in.py says how.
ALIKE = [name for name in HEADS if name not in ("GroupedConv", "Grouped")]
REGULARISERS = {
    "GroupNormPruner": {"reg": 0.1, "alpha": 3},
    "BNScalePruner": {"reg": 0.1},
    "BNScalePruner, group lasso": {"reg": 0.1, "group_lasso": True},
    "GrowingRegPruner": {"reg": 0.1, "delta_reg": 0.2},
}
IMPORTANCES = {
    "first": lambda: tp.importance.GroupMagnitudeImportance(group_reduction="first"),
    "largest": lambda: tp.importance.GroupMagnitudeImportance(group_reduction="max"),
    "product": lambda: tp.importance.GroupMagnitudeImportance(group_reduction="prod"),
    "gaussian": lambda: tp.importance.GroupMagnitudeImportance(normalizer="gaussian"),
    "with bias": lambda: tp.importance.GroupMagnitudeImportance(p=1, bias=True),
    "MagnitudeImportance": lambda: tp.importance.MagnitudeImportance(p=1),
    "LAMPImportance": tp.importance.LAMPImportance,
    "FPGMImportance": tp.importance.FPGMImportance,
    "BNScaleImportance": tp.importance.BNScaleImportance,
    "GroupTaylorImportance": tp.importance.GroupTaylorImportance,
    "GroupHessianImportance": tp.importance.GroupHessianImportance,
}


def backward(model, inputs):
    found = model(*inputs)
    sum(out.pow(2).sum() for out in (found.values() if isinstance(found, dict) else [found])).backward()


def hessian(model, inputs, importance):
    importance.zero_grad()
    for row in model(*inputs).flatten(1).pow(2).sum(1):
        model.zero_grad()
        row.backward(retain_graph=True)
        importance.accumulate_grad(model)


def trained(kind, pruner_of, options):
    """A network after a sparse step and a pruning step by a pruner with a regulariser."""
    model, inputs, heads = fresh("Plain")
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    torch.manual_seed(0)
    pruner = pruner_of(kind, model, inputs[0], importance, ignored_layers=heads, iterative_steps=2, **options)
    gradients = []
    for _ in range(2):
        model.train()
        model.zero_grad()
        backward(model, inputs)
        if isinstance(pruner, tp.pruner.GrowingRegPruner):
            pruner.update_reg()
        pruner.regularize(model)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.eval()
        pruner.step()
        pruner.update_regularizer()
    return model, inputs, gradients


@pytest.mark.parametrize("name", REGULARISERS)
def test_regularisers_add_the_same_to_the_gradients(name):
    kind, options = getattr(tp.pruner, name.partition(",")[0]), REGULARISERS[name]
    stock, inputs, expected = trained(kind, lambda kind, *a, **k: kind(*a, **k), options)
    ours, _, found = trained(kind, stock_pruner_on_our_graph, options)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[n], theirs[n], atol=1e-5) for n in mine)
    assert_same(ours, stock, inputs)
    assert ours.c1.out_channels == 4


# A Hessian takes one loss a row, of one output.
PAIRS = [pair for pair in product(ALIKE, IMPORTANCES) if pair != ("TwoOutputs", "GroupHessianImportance")]


@pytest.mark.parametrize(("name", "importance"), PAIRS)
def test_importances_score_the_same(name, importance):
    model, inputs, _ = fresh(name)
    score = IMPORTANCES[importance]()
    if importance == "GroupTaylorImportance":
        backward(model, inputs)
    if importance == "GroupHessianImportance":
        hessian(model, inputs, score)
    stock = stock_graph(model, inputs)
    compared = 0
    for group in mv.MoEDependencyGraph().build_dependency(model, inputs).get_all_groups():
        root = group[0].dep
        theirs = score(stock.get_pruning_group(root.target.module, root.handler, list(group[0].idxs)))
        mine = score(group)
        compared += theirs is not None
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.allclose(mine, theirs, rtol=1e-4)
    assert compared or importance == "BNScaleImportance"


@pytest.mark.parametrize("importance", ["GroupTaylorImportance", "GroupHessianImportance", "LAMPImportance", "largest"])
def test_our_pruner_keeps_what_stock_keeps_by_other_importances(importance):
    models = []
    for kind in (tp.pruner.BasePruner, mv.MoEPruner):
        model, inputs, heads = fresh("Residual")
        score = IMPORTANCES[importance]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = kind(model, inputs[0], score, ignored_layers=heads)
            if importance == "GroupTaylorImportance":
                backward(model, inputs)
            if importance == "GroupHessianImportance":
                hessian(model, inputs, score)
            pruner.step()
        models.append(model)
    assert_same(models[1], models[0], inputs)


def test_random_importance_prunes_to_the_ratio():
    model, inputs, heads = fresh("Plain")
    mv.MoEPruner(model, inputs[0], tp.importance.RandomImportance(), ignored_layers=heads).step()
    assert (model.c1.out_channels, model.c2.out_channels) == (4, 6)
    assert model(*inputs).shape == (2, 5)


class Attention(nn.Module):
    """Attention whose head count is set from outside, as scripts do after a step."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.embed, self.num_heads = nn.Linear(6, width), heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in "qkv")
        self.o, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        return self.head(x + self.o(mixed.transpose(1, 2).flatten(2)))


def test_heads_go_by_stock_on_our_graph_as_by_stock():
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))
    models, counts = [], []
    torch.manual_seed(0)
    first = Attention().eval()
    for build in (lambda kind, *a, **k: kind(*a, **k), stock_pruner_on_our_graph):
        model = copy.deepcopy(first)
        pruner = build(
            tp.pruner.BasePruner,
            model,
            x,
            tp.importance.GroupMagnitudeImportance(p=2),
            ignored_layers=[model.head],
            num_heads=dict.fromkeys((model.q, model.k, model.v), 4),
            out_channel_groups={},
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=0.25,
            head_pruning_ratio_dict=dict.fromkeys((model.q, model.k, model.v), 0.5),
        )
        pruner.step()
        model.num_heads = pruner.num_heads[model.q]
        models.append(model)
        counts.append(list(pruner.num_heads.values()))
    assert counts == [[2, 2, 2], [2, 2, 2]]
    assert_same(models[1], models[0], (x,))


def test_chunked_outputs_go_alike_and_at_the_ratio_where_the_script_says_so():
    models = []
    for build in (lambda kind, *a, **k: kind(*a, **k), stock_pruner_on_our_graph):
        torch.manual_seed(0)
        model = Chunked().eval()
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        options = {"ignored_layers": [model.b], "out_channel_groups": {model.a: 2}}
        build(tp.pruner.BasePruner, model, ROW[0], importance, **options).step()
        models.append(model)
    assert shapes(models[0]) == shapes(models[1])
    assert (model.a.out_features, model.b.in_features) == (6, 3)
    assert model(*ROW).shape == (3, 3)


def test_dimensions_inside_heads_stay_by_stock_on_our_graph():
    x = torch.randn(2, 7, 6)
    model = Attention().eval()
    heads = dict.fromkeys((model.q, model.k, model.v), 4)
    options = {"ignored_layers": [model.head], "num_heads": heads, "out_channel_groups": {}}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    stock_pruner_on_our_graph(tp.pruner.BasePruner, model, x, importance, **options).step()
    assert (model.q.out_features, model.o.in_features, model.embed.out_features) == (16, 16, 8)
    assert model(x).shape == (2, 7, 5)

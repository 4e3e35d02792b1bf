"""Steps taken one by one: interactive, soft, iterative and by hand."""

import warnings

import pytest
import torch
import torch_pruning as tp
from both_graphs import assert_same, fresh, outputs, shapes, stock_pruner_on_our_graph

import moeverify as mv

OUTPUTS = (tp.prune_conv_out_channels, tp.prune_linear_out_channels, tp.prune_batchnorm_out_channels)
INPUTS = (tp.prune_conv_in_channels, tp.prune_linear_in_channels)


def pruner_of(kind, name="Plain", **options):
    model, inputs, heads = fresh(name)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    return kind(model, inputs[0], importance, ignored_layers=heads, **options), model, inputs


def soften(group):
    """Set to zero what a group would remove."""
    for dep, idxs in group:
        layer = dep.target.module
        if dep.handler in INPUTS:
            layer.weight.data[:, idxs] *= 0
        elif dep.handler in OUTPUTS:
            layer.weight.data[idxs] *= 0
            if layer.bias is not None:
                layer.bias.data[idxs] *= 0


@pytest.mark.parametrize("name", ["Plain", "Residual", "Concat", "Flatten"])
def test_soft_pruning_keeps_the_sizes_and_computes_what_hard_pruning_does(name):
    pruner, soft, inputs = pruner_of(mv.MoEPruner, name)
    before = shapes(soft)
    with torch.no_grad():
        for group in pruner.step(interactive=True):
            soften(group)
    assert shapes(soft) == before
    assert pruner.pruning_history() == []
    stock, softened, _ = pruner_of(tp.pruner.BasePruner, name)
    for group in stock.step(interactive=True):
        soften(group)
    assert_same(soft, softened, inputs)
    hard, pruned, _ = pruner_of(mv.MoEPruner, name)
    hard.step()
    for mine, other in zip(outputs(soft, inputs), outputs(pruned, inputs), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("collect", [False, True])
def test_interactive_steps_end_where_plain_ones_do(collect):
    plain, expected, inputs = pruner_of(mv.MoEPruner, "Residual", iterative_steps=3)
    pruner, model, _ = pruner_of(mv.MoEPruner, "Residual", iterative_steps=3)
    for _ in range(3):
        plain.step()
        groups = pruner.step(interactive=True)
        for group in list(groups) if collect else groups:
            assert isinstance(group, tp.dependency.Group)
            group.prune()
        assert_same(model, expected, inputs)
    assert pruner.pruning_history() == plain.pruning_history()


def test_groups_refused_in_the_loop_stay():
    pruner, model, inputs = pruner_of(mv.MoEPruner)
    for group in pruner.step(interactive=True):
        if group[0].dep.target.module is not model.c1:
            group.prune()
    assert (model.c1.out_channels, model.c2.out_channels) == (8, 6)
    assert model(*inputs).shape == (2, 5)


def test_other_channels_are_chosen_in_the_loop():
    pruner, model, inputs = pruner_of(mv.MoEPruner)
    kept = model.c1.weight[[0, 1, 2, 3, 4]].detach().clone()
    for group in pruner.step(interactive=True):
        group.prune(idxs=[5, 6, 7] if group[0].dep.target.module is model.c1 else None)
    assert torch.equal(model.c1.weight, kept)
    assert model(*inputs).shape == (2, 5)


def test_training_between_steps_goes_on_at_each_width():
    pruner, model, inputs = pruner_of(mv.MoEPruner, iterative_steps=3)
    for width in (6, 5, 4):
        pruner.step()
        assert model.c1.out_channels == width
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            model(*inputs).pow(2).mean().backward()
            optimizer.step()
        model.eval()
    assert all(p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("on_our_graph", [False, True])
def test_one_step_too_many_warns_and_changes_nothing(on_our_graph):
    build = (lambda *a, **k: stock_pruner_on_our_graph(tp.pruner.BasePruner, *a, **k)) if on_our_graph else mv.MoEPruner
    pruner, model, _ = pruner_of(build)
    pruner.step()
    before = shapes(model)
    with pytest.warns(UserWarning, match="iterative steps"):
        pruner.step()
    assert shapes(model) == before
    pruner.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.step()


def test_layers_pruned_by_hand():
    pruner, model, inputs = pruner_of(mv.MoEPruner)
    stock, expected, _ = pruner_of(tp.pruner.BasePruner)
    for one, network in ((pruner, model), (stock, expected)):
        one.manual_prune_width(network.c1, tp.prune_conv_out_channels, [0, 5])
    assert_same(model, expected, inputs)
    norms = model.c2.weight.flatten(1).norm(dim=1)
    pruner.manual_prune_width(model.c2, tp.prune_conv_out_channels, 0.25)  # stock hands on tensors, and removes nothing
    assert model.c2.out_channels == 9
    assert model.c2.weight.flatten(1).norm(dim=1).sum() > norms.sort().values[:9].sum()
    assert model(*inputs).shape == (2, 5)

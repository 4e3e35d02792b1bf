"""Channels compete within a class, over the whole model, among layers that are alike, or expert by expert."""

import copy

import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Residual
from small_nets import Chain, TinyMoE, build
from tiny_moe import MAGNITUDE, TOKENS, prune_moe, widths

import moeverify as mv
from moeverify.errors import UsageError


def test_global_ranking_takes_from_where_it_matters_least():
    model = build(Chain, depth=4, width=16)
    with torch.no_grad():
        model.layers[0].weight *= 0.01
        model.layers[1].weight[:, :] *= 10
    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    options = {"global_pruning": True, "pruning_ratio": 0.5, "max_pruning_ratio": 0.75}
    mv.MoEPruner(model, torch.randn(2, 16), plain, **options).step()
    sizes = [layer.out_features for layer in model.layers[:-1]]
    assert min(sizes) == 4  # it would lose more without a maximum
    assert max(sizes) > 12


def test_global_ranking_rounds_what_the_maximum_leaves():
    model = build(Chain, depth=4, width=64)
    with torch.no_grad():
        model.layers[0].weight *= 0.01
    options = {"global_pruning": True, "pruning_ratio": 0.5, "max_pruning_ratio": 0.6, "round_to": 4}
    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    mv.MoEPruner(model, torch.randn(2, 64), plain, **options).step()
    sizes = [layer.out_features for layer in model.layers[:-1]]
    assert sizes[0] == 28  # 26 are four tenths
    assert all(size % 4 == 0 for size in sizes)


def test_global_ranking_is_that_of_torch_pruning():
    model = build(Residual)
    expected = copy.deepcopy(model)
    options = {"importance": MAGNITUDE, "global_pruning": True, "pruning_ratio": 0.5}
    tp.pruner.BasePruner(expected, IMAGE[0], ignored_layers=[expected.fc], **options).step()
    mv.MoEPruner(model, IMAGE[0], ignored_layers=[model.fc], **options).step()
    assert torch.equal(model(*IMAGE), expected(*IMAGE))


@pytest.mark.parametrize("isomorphic", [False, True])
def test_isomorphic_ranking_compares_layers_that_are_alike(isomorphic):
    model = build(TinyMoE, blocks=2, inner=16, shared=0)
    with torch.no_grad():
        for expert in model.layers[0].experts:
            expert.up_proj.weight *= 100
    options = {"ratios": {"hidden": 0}, "isomorphic": isomorphic}
    importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    mv.MoEPruner(model, TOKENS, importance, pruning_ratio=0.25, **options).step()
    inner = [[e.up_proj.out_features for e in layer.experts] for layer in model.layers]
    assert sum(map(sum, inner)) == 96
    assert inner[0] == [16 if isomorphic else 12] * 4


def test_experts_ranked_each_by_itself_or_together():
    def model():
        found = build(TinyMoE, inner=16, shared=0)
        with torch.no_grad():
            for number, expert in enumerate(found.layers[0].experts):
                expert.up_proj.weight *= 4.0**number
        return found

    plain = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    options = {"importance": plain, "ratios": {"hidden": 0}}
    assert widths(prune_moe(model(), **options)) == [8] * 4
    together = widths(prune_moe(model(), expert_ranking="together", **options))
    assert together == [1, 1, 16, 16]
    assert widths(prune_moe(model(), expert_ranking="each", global_pruning=True, **options)) == [8] * 4
    with pytest.raises(UsageError, match="'each' or 'together'"):
        prune_moe(expert_ranking="both")

"""Pruning one group after the other: interactive steps, histories, a layer's width; what follows from sizes follows."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Plain
from own_scales import own_scales
from small_nets import TinyMoE, build

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.zoo import build_zoo

TOKENS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
IDS = torch.arange(32).view(2, 16)


def prune_moe(model):
    mv.MoEPruner(model, TOKENS, pruning_ratio=0.5).step()
    return model


def test_interactive_groups_come_one_by_one():
    model = build(TinyMoE, inner=16)
    expected = prune_moe(copy.deepcopy(model))
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5)
    groups = 0
    for group in pruner.step(interactive=True):
        dep, idxs = group[0]
        assert len(idxs) == len(set(idxs)) > 0
        assert dep.handler == tp.prune_linear_out_channels
        group.prune()
        groups += 1
    assert groups == 6
    assert torch.equal(model(TOKENS), expected(TOKENS))
    assert len(pruner.pruning_history()) == 6


def test_interactive_groups_may_be_left_out():
    model = build(Plain)
    for group in mv.MoEPruner(model, IMAGE[0], pruning_ratio=0.5).step(interactive=True):
        if group[0].dep.target.module is model.c2:
            group.prune(idxs=[0])
    assert (model.c1.out_channels, model.c2.out_channels) == (8, 11)


def test_history_of_a_pruner_is_replayed():
    model = build(TinyMoE, inner=16)
    other = copy.deepcopy(model)
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, iterative_steps=2)
    pruner.step()
    pruner.step()
    again = mv.MoEPruner(other, TOKENS)
    again.load_pruning_history(pruner.pruning_history())
    assert torch.equal(model(TOKENS), other(TOKENS))


def test_manual_width():
    model = build(Plain)
    pruner = mv.MoEPruner(model, IMAGE[0])
    pruner.manual_prune_width(model.c1, tp.prune_conv_out_channels, 0.25)
    pruner.manual_prune_width(model.c2, tp.prune_conv_out_channels, [0, 1])
    assert (model.c1.out_channels, model.c2.out_channels) == (6, 10)


def of_hidden(group, embedding):
    """Whether a group cuts the hidden channels."""
    return any(dep.target.module is embedding for dep, _ in group)


def without(model, gone):
    """The model with some hidden channels held at zero."""
    model.embed.weight.data[:, gone] = 0
    model.down_proj.weight.data[gone] = 0
    model.down_proj.bias.data[gone] = 0
    return model


@pytest.mark.parametrize("kind", ["embedding", "tied"])
@pytest.mark.parametrize("way", ["interactive", "manual", "history"])
@torch.no_grad()
def test_constants_follow_groups_that_were_pruned_otherwise_than_planned(kind, way, tmp_path):
    model = own_scales(kind)
    original, other = copy.deepcopy(model), copy.deepcopy(model)
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5)
    gone = [2, 5, 11, 12]
    if way == "manual":
        pruner.manual_prune_width(model.down_proj, tp.prune_linear_out_channels, gone)
    else:
        for group in pruner.step(interactive=True):
            if of_hidden(group, model.embed):
                group.prune(idxs=gone)
    if way == "history":
        again = mv.MoEPruner(other, {"input_ids": IDS})
        again.load_pruning_history(pruner.pruning_history())
        model = other
    assert model.config.hidden_size == 12
    expected = without(original, gone)(IDS).logits
    assert (model(IDS).logits - expected).abs().max() < 1e-12 * expected.abs().max()
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path, dtype=torch.float64)(IDS).logits, model(IDS).logits)


@torch.no_grad()
def test_attributes_follow_groups_that_were_pruned_otherwise_than_planned():
    """The embedding's scale is an attribute and a buffer here, and the head is tied."""
    model = build_zoo("gemma4_text")
    scale, weight = model.model.embed_tokens.scalar_embed_scale, model.model.embed_tokens.weight.clone()
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5)
    for group in pruner.step(interactive=True):
        if of_hidden(group, model.model.embed_tokens):
            kept = np.setdiff1d(np.arange(64), range(16))
            group.prune(idxs=list(range(16)))
    assert model.config.hidden_size == 48
    assert model.model.embed_tokens.scalar_embed_scale == pytest.approx(48**0.5)
    assert torch.allclose(model.model.embed_tokens.weight * 48**0.5, weight[:, kept] * scale)


def test_constants_that_no_weight_takes_over_are_told_after_the_groups():
    model = own_scales("added")
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5)
    with pytest.raises(PruningRefused, match="no weight can take over"):
        pruner.manual_prune_width(model.down_proj, tp.prune_linear_out_channels, [0])


def test_a_width_that_no_configuration_says_is_refused_before():
    model = build_zoo("mixtral")
    pruner = mv.MoEPruner(model, {"input_ids": IDS})
    with pytest.raises(PruningRefused, match="nothing was changed"):  # heads of one layer alone
        pruner.manual_prune_width(model.model.layers[0].self_attn.q_proj, tp.prune_linear_out_channels, [0])
    assert {layer.self_attn.q_proj.out_features for layer in model.model.layers} == {64}

"""Pruning one group after the other: interactive steps, histories, a layer's width; what follows from sizes follows."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from conv_nets import IMAGE, Plain
from own_scales import own_scales
from small_nets import TinyMoE, build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused
from moeverify.models.zoo import build_zoo

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


@pytest.mark.parametrize("backwards", [False, True])
def test_groups_may_be_collected_before_the_first_is_pruned(backwards, tmp_path):
    """They were numbered before any was pruned; what follows from sizes follows with the last."""
    model = own_scales("embedding")
    expected = copy.deepcopy(model)
    mv.MoEPruner(expected, {"input_ids": IDS}, pruning_ratio=0.5).step()
    pruner = mv.MoEPruner(model, {"input_ids": IDS}, pruning_ratio=0.5)
    groups = list(pruner.step(interactive=True))
    assert len(groups) > 1
    for number, group in enumerate(groups[::-1] if backwards else groups):
        assert (model.config.hidden_size, pruner.last_plan) == (16, None), number
        group.prune()
    assert model.config.to_dict() == expected.config.to_dict()
    assert pruner.last_plan is not None
    assert torch.equal(model(IDS).logits, expected(IDS).logits)
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path, dtype=torch.float64)(IDS).logits, model(IDS).logits)


class Fused(nn.Module):
    """One layer for the inputs of two."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.both = nn.Linear(8, 3), nn.Linear(6, 3), nn.Linear(5, 14)

    def forward(self, x):
        both = self.both(x)
        return self.one(both[:, : self.one.in_features].relu()) + self.other(both[:, self.one.in_features :].tanh())


@torch.no_grad()
def test_groups_of_one_dimension_keep_their_channels_whatever_is_pruned_between():
    model = build(Fused)
    original = copy.deepcopy(model)
    graph = mv.MoEDependencyGraph().build_dependency(model, TOKENS)
    first = graph.get_pruning_group(model.one, tp.prune_linear_in_channels, [0, 3])
    second = graph.get_pruning_group(model.other, tp.prune_linear_in_channels, [1, 4])
    first.prune()
    second.prune()
    gone = [0, 3, 8 + 1, 8 + 4]
    assert torch.equal(model.both.weight, original.both.weight[np.setdiff1d(np.arange(14), gone)])
    original.one.weight[:, [0, 3]] = 0
    original.other.weight[:, [1, 4]] = 0
    assert torch.allclose(model(TOKENS), original(TOKENS), atol=1e-6)
    again = mv.MoEDependencyGraph().build_dependency(copy_of := build(Fused), TOKENS)
    again.load_pruning_history(graph.pruning_history())
    assert torch.equal(copy_of(TOKENS), model(TOKENS))


def test_history_of_a_pruner_is_replayed():
    model = build(TinyMoE, inner=16)
    other = copy.deepcopy(model)
    pruner = mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, iterative_steps=2)
    pruner.step()
    pruner.step()
    again = mv.MoEPruner(other, TOKENS)
    again.load_pruning_history(pruner.pruning_history())
    assert torch.equal(model(TOKENS), other(TOKENS))


def test_a_layer_is_pruned_to_a_width_or_without_given_channels():
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


@pytest.mark.slow
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


def test_constants_that_no_weight_takes_over_are_named_after_the_groups():
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

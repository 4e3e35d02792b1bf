"""A ratio for a role: its spellings, shared experts in or out, and roles that are frozen or absent."""

import copy

import pytest
import torch
from small_nets import TinyMoE, build
from tiny_moe import TOKENS, prune_moe, widths

import moeverify as mv
from moeverify.errors import PruningRefused, UsageError


@pytest.mark.parametrize("spelling", ["routed_experts", "Routed-Experts", "routed_expert", "moe_experts"])
def test_roles_in_several_spellings(spelling):
    model = prune_moe(pruning_ratio=0, ratios={spelling: 0.25})
    assert widths(model) == [12] * 4
    assert model.embed.out_features == 8
    with pytest.raises(UsageError, match="unknown role 'expertz'"):
        mv.MoEPruner(model, TOKENS, ratios={"expertz": 0.5})


def test_shared_experts_in_or_out():
    assert prune_moe().layers[0].shared_expert.up_proj.out_features == 6
    assert prune_moe(prune_shared_experts=False).layers[0].shared_expert.up_proj.out_features == 12
    assert prune_moe(ratios={"shared_experts": 0.25}).layers[0].shared_expert.up_proj.out_features == 9
    with pytest.raises(UsageError, match="drop one of them"):
        prune_moe(prune_shared_experts=False, ratios={"shared": 0.25})


class Softmaxed(TinyMoE):
    """The hidden channels pass a softmax and are frozen by it."""

    def forward(self, tokens):
        x = self.embed(tokens).softmax(-1)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def test_frozen_role_is_refused_by_name():
    model = build(Softmaxed, inner=16)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningRefused, match=r"ratio for hidden was asked for, .* frozen: aten\._softmax"):
        mv.MoEPruner(model, TOKENS, pruning_ratio=0.5, ratios={"hidden": 0.25}).step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mv.MoEPruner(model, TOKENS, pruning_ratio=0.5).step()  # asked for by no name: what is frozen is left alone
    assert widths(model) == [8] * 4
    assert model.embed.out_features == 8
    mv.MoEPruner(build(TinyMoE, shared=0), TOKENS, ratios={"shared_experts": 0.5}).step()  # there are none

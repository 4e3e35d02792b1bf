"""A tiny MoE model pruned with any arguments, and the widths of its routed experts."""

import torch
import torch_pruning as tp
from small_nets import TinyMoE, build

import moeverify as mv

TOKENS = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
MAGNITUDE = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")


def widths(model):
    return [expert.up_proj.out_features for expert in model.layers[0].experts]


def prune_moe(model=None, **options):
    model = model or build(TinyMoE, inner=16, shared=12)
    pruner = mv.MoEPruner(model, TOKENS, **{"pruning_ratio": 0.5, **options})
    pruner.step()
    assert model(TOKENS).shape == (12, 3)
    return model

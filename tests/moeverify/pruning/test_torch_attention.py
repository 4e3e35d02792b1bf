"""Torch's own attention layers: heads go whole, along with as many channels of the width."""

import copy

import pytest
import torch
from masked_original import difference
from small_nets import build
from torch import nn

import moeverify as mv
from moeverify.errors import PruningRefused

X = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))


class Attends(nn.Module):
    def __init__(self, width=24, heads=4, **arguments):
        super().__init__()
        self.enter, self.leave = nn.Linear(10, width), nn.Linear(width, 5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True, **arguments)

    def forward(self, x):
        y = self.enter(x)
        return self.leave(y + self.attention(y, y, y, need_weights=False)[0])


class Encoded(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(10, 24), nn.Linear(24, 5)
        layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.leave(self.encoder(self.enter(x)))


def pruned(model, **arguments):
    original = copy.deepcopy(model)
    plan = mv.MoEPruner(model, X, **{"pruning_ratio": 0.5, **arguments}).step()
    return original, plan


def test_heads_go_whole_with_the_width():
    model = build(Attends)
    original, plan = pruned(model)
    attention = model.attention
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (12, 2, 6)
    assert (attention.in_proj_weight.shape, attention.out_proj.weight.shape) == ((36, 12), (12, 12))
    assert difference(original, model, plan, X) < 1e-12
    again, more = pruned(model)
    assert (attention.embed_dim, attention.num_heads) == (6, 1)
    assert difference(again, model, more, X) < 1e-12


def test_an_encoder_of_torch_loses_whole_heads():
    model = build(Encoded)
    original, plan = pruned(model)
    assert [layer.self_attn.num_heads for layer in model.encoder.layers] == [2, 2]
    assert [layer.linear1.out_features for layer in model.encoder.layers] == [20, 20]
    assert difference(original, model, plan, X) < 1e-12


def test_a_share_that_makes_no_whole_heads_is_adjusted():
    model = build(Attends)
    with pytest.warns(UserWarning, match="keeps 12 of 24 units, 16 were asked: it follows the share"):
        original, plan = pruned(model, pruning_ratio=0.3)
    assert (model.attention.embed_dim, model.attention.num_heads) == (12, 2)
    assert difference(original, model, plan, X) < 1e-12


def test_heads_alone_cannot_go():
    """The layer works out the size of a head from its width."""
    with pytest.raises(PruningRefused, match=r"^heads of attention .*the forward does not run"):
        pruned(build(Attends), pruning_ratio=0, ratios={"heads": 0.5})


def test_groups_of_torch_pruning_stay_one_layer():
    import torch_pruning as tp

    model = build(Attends)
    graph = mv.MoEDependencyGraph().build_dependency(model, X)
    graph.get_pruning_group(model.attention, tp.prune_multihead_attention_out_channels, [0, 1, 2, 3]).prune()
    assert model.attention.embed_dim == model.enter.out_features == 20

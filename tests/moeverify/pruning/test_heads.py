"""Heads: fewer of them, or fewer dimensions in each; grouped queries respected."""

import pytest
import torch
from small_nets import build
from torch import nn

import moeverify as mv
from moeverify.errors import UsageError


class Attention(nn.Module):
    """Multi-head attention as vision transformers write it, key/value heads fewer if asked."""

    def __init__(self, width=16, heads=4, kv_heads=4):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.num_heads, self.num_key_value_heads, self.head_dim = heads, kv_heads, width // heads
        self.q, self.k, self.v = nn.Linear(width, width), *(nn.Linear(width, width // heads * kv_heads) for _ in "kv")
        self.o, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, -1).transpose(1, 2)
        k = self.k(x).view(b, n, self.num_key_value_heads, -1).transpose(1, 2)
        v = self.v(x).view(b, n, self.num_key_value_heads, -1).transpose(1, 2)
        if self.num_heads != self.num_key_value_heads:
            repeat = self.num_heads // self.num_key_value_heads
            k, v = (t[:, :, None].expand(-1, -1, repeat, -1, -1).flatten(1, 2) for t in (k, v))
        weights = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
        return self.head(x + self.o((weights @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_head_pruning_respects_grouped_queries(kv_heads):
    model = build(Attention, kv_heads=kv_heads)
    heads = {model.q: 4, model.k: kv_heads, model.v: kv_heads}
    pruner = mv.MoEPruner(
        model, torch.randn(2, 5, 4), pruning_ratio=0, num_heads=heads, prune_num_heads=True, head_pruning_ratio=0.5
    )
    pruner.step()
    assert (model.q.out_features, model.k.out_features, model.o.in_features) == (8, 2 * kv_heads, 8)
    assert pruner.num_heads == {model.q: 2, model.k: kv_heads // 2, model.v: kv_heads // 2}
    assert (model.num_heads, model.num_key_value_heads) == (2, kv_heads // 2)
    assert model(torch.randn(2, 5, 4)).shape == (2, 5, 3)
    assert model.embed.out_features == 16


def test_dimensions_inside_heads_go_where_heads_are_given():
    model = build(Attention)
    heads = dict.fromkeys((model.q, model.k, model.v), 4)
    mv.MoEPruner(model, torch.randn(2, 5, 4), pruning_ratio=0.5, num_heads=heads, ratios={"hidden": 0}).step()
    assert (model.q.out_features, model.v.out_features, model.o.in_features) == (8, 8, 8)
    assert model.num_heads == 4
    assert model(torch.randn(2, 5, 4)).shape == (2, 5, 3)
    left = build(Attention)
    mv.MoEPruner(
        left,
        torch.randn(2, 5, 4),
        pruning_ratio=0.5,
        num_heads=dict.fromkeys((left.q, left.k, left.v), 4),
        prune_head_dims=False,
    ).step()
    assert left.q.out_features == 16
    assert left.embed.out_features == 8


def test_a_count_that_nobody_gave_follows_where_an_attribute_holds_it():
    model, x = build(Attention), torch.randn(2, 5, 4)
    mv.MoEPruner(model, x, pruning_ratio=0.5).step()
    assert (model.q.out_features, model.num_heads, model.num_key_value_heads) == (8, 2, 2)
    assert model(x).shape == (2, 5, 3)


def test_heads_first_then_the_dimensions_inside_of_them():
    model, x = build(Attention), torch.randn(2, 5, 4)
    given = dict.fromkeys((model.q, model.k, model.v), 4)
    options = {"prune_num_heads": True, "head_pruning_ratio": 0.5, "ratios": {"hidden": 0}}
    with pytest.warns(UserWarning, match="a second pruner with prune_num_heads=False cuts them"):
        pruner = mv.MoEPruner(model, x, num_heads=given, **options)
    pruner.step()
    assert (model.q.out_features, model.num_heads) == (8, 2)
    mv.MoEPruner(model, x, num_heads=pruner.num_heads, ratios={"hidden": 0}).step()
    assert (model.q.out_features, model.v.out_features, model.o.in_features, model.num_heads) == (4, 4, 4, 2)
    assert model(x).shape == (2, 5, 3)


def test_heads_that_do_not_divide_are_refused():
    model = build(Attention)
    with pytest.raises(UsageError, match="3 heads do not divide the 16 outputs of q"):
        mv.MoEPruner(model, torch.randn(2, 5, 4), num_heads={model.q: 3})


def test_head_ratio_by_layer():
    model = nn.Sequential(Attention(), nn.Linear(3, 4), Attention()).eval()
    heads = {layer: 4 for a in (model[0], model[2]) for layer in (a.q, a.k, a.v)}
    mv.MoEPruner(
        model,
        torch.randn(2, 5, 4),
        pruning_ratio=0,
        num_heads=heads,
        prune_num_heads=True,
        head_pruning_ratio=0.25,
        head_pruning_ratio_dict={model[2]: 0.5},
    ).step()
    assert (model[0].num_heads, model[2].num_heads) == (3, 2)

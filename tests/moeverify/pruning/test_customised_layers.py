"""Layers with a pruning function of their own: the user's, and those that Torch-Pruning has one for."""

import pytest
import torch
import torch_pruning as tp
from conv_nets import ROW
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import moeverify as mv


class Scale(nn.Module):
    """A layer that Torch-Pruning does not know, with an extra parameter of its own layout."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, width))

    def forward(self, x):
        return x * self.table.sum(0).expand_as(x)


class ScalePruner(tp.pruner.function.BasePruningFunc):
    calls = 0

    def prune_out_channels(self, layer, idxs):
        type(self).calls += 1
        keep = [i for i in range(layer.table.shape[1]) if i not in set(idxs)]
        layer.table = nn.Parameter(layer.table.data[:, keep])
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer):
        return layer.table.shape[1]

    get_in_channels = get_out_channels


@pytest.mark.parametrize("by_instance", [False, True])
def test_customised_layer_is_cut_by_its_own_function(by_instance):
    model = nn.Sequential(nn.Linear(4, 8), Scale(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model[1].table.requires_grad_(False)
    key = model[1] if by_instance else Scale
    graph = mv.MoEDependencyGraph().build_dependency(model, ROW, customized_pruners={key: ScalePruner()})
    group = graph.get_pruning_group(model[0], tp.prune_linear_out_channels, [1, 6])
    assert {(type(d.target.module).__name__, tuple(i)) for d, i in group} == {
        ("Linear", (1, 6)),
        ("Scale", (1, 6)),
    }
    calls = ScalePruner.calls
    group.prune()
    assert ScalePruner.calls == calls + 1
    assert model[1].table.shape == (2, 6)
    assert not model[1].table.requires_grad
    assert model(*ROW).shape == (3, 3)
    pruner = mv.MoEPruner(model, ROW, pruning_ratio=0.5, customized_pruners={key: ScalePruner()})
    pruner.step()
    assert model[1].table.shape == (2, 3)
    assert model[3].in_features == 3


def test_multihead_attention_is_one_layer():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attention, self.head = (
                nn.Linear(4, 8),
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.attention(x, x, x, need_weights=False)[0])

    model = Attends().eval()
    x = torch.randn(2, 5, 4)
    mv.MoEPruner(model, x, pruning_ratio=0.5, num_heads={model.attention: 2}).step()
    assert model.attention.embed_dim == model.embed.out_features == model.head.in_features == 4
    assert model(x).shape == (2, 5, 3)


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize(("place", "width"), [("model.norm", 64), ("model.layers.0.mlp.act_fn", 96)])
def test_a_layer_of_the_users_inside_of_a_transformers_model(place, width, interactive):
    """No configuration speaks of it; all others stay in step."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, vocab_size=64, **sizes)).eval()
    owner, _, leaf = place.rpartition(".")
    setattr(model.get_submodule(owner), leaf, Scale(width))
    ids = torch.arange(32).view(2, 16)
    pruner = mv.MoEPruner(
        model,
        {"input_ids": ids},
        pruning_ratio=0.5,
        ignored_layers=[model.lm_head],
        customized_pruners={Scale: ScalePruner()},
    )
    if interactive:
        for group in pruner.step(interactive=True):
            group.prune()
    else:
        pruner.step()
    assert (model.config.hidden_size, model.config.intermediate_size) == (32, 48)
    assert model.get_submodule(place).table.shape[1] == width // 2
    assert model(ids).logits.isfinite().all()

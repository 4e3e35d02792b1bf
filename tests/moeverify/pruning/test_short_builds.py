"""Trials of deep models build a few layers of each kind; what only other layers do is found by building all of them."""

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeAttention

import moeverify as mv
from moeverify.pruning.configuration.document import config_from, document_of
from moeverify.pruning.configuration.probe import Probe
from moeverify.pruning.configuration.short_builds import ShortBuilds

LAYERS = 8
X = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))


class StackConfig(PretrainedConfig):
    model_type = "stack_for_test"

    def __init__(self, inner=12, rule="none", **more):
        self.inner, self.rule = inner, rule
        super().__init__(**more)


class Layer(nn.Module):
    made = 0

    def __init__(self, config, number):
        super().__init__()
        Layer.made += 1
        changed = config.inner != 12
        wider = changed and (number == 5 if config.rule == "one" else config.rule == "odd" and number % 2)
        self.up, self.down = nn.Linear(8, config.inner + 4 * wider), nn.Linear(config.inner + 4 * wider, 8)
        self.number, self.width = number, config.inner

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Stack(PreTrainedModel):
    config_class = StackConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 2)
        layers = [Layer(config, number) for number in range(LAYERS)]
        self.layers = nn.ModuleList(reversed(layers) if config.rule == "reversed" else layers)
        if config.rule == "looks":
            self.width = self.layers[4].up.out_features
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def stack(rule="none"):
    torch.manual_seed(0)
    return Stack(StackConfig(rule=rule)).eval()


def plan(model):
    return mv.MoEPruner(model, X, pruning_ratio=0.5, ratios={"hidden": 0.0}, ignored_layers=[model.head]).plan()


def trials(model, entries):
    """One trial built with few layers and one with all, and how many layers each made."""
    found = []
    for full in (False, True):
        probe = Probe(model)
        probe._remembered.in_full = full
        probe._remembered.forget_builds()
        before = Layer.made
        found.append((probe.try_entries(entries), Layer.made - before))
    return found


def test_the_layers_that_stand_for_others_tell_the_same():
    (short, few), (full, all_of_them) = trials(stack(), {("inner",): 24})
    assert short == full
    assert list(short.attributes.items()) == list(full.attributes.items())
    assert (few, all_of_them) == (3, LAYERS)
    assert short.shapes["layers.4.up.weight"] == (24, 8)
    assert short.attributes["layers.4", "width"] == 24


@pytest.mark.parametrize("rule", ["odd", "reversed", "looks"])
def test_where_they_do_not_tell_all_layers_are_built(rule):
    """Standing layers that differ; layers in another order; a model that looks at a layer while it is made."""
    (short, tried), (full, _) = trials(stack(rule), {("inner",): 24})
    assert short == full
    assert tried >= LAYERS


def test_every_entry_of_a_deep_model_means_the_same():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "vocab_size": 32}
    sizes |= {"num_experts": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**sizes, num_hidden_layers=12, mlp_only_layers=[1, 4, 6], pad_token_id=0)
    )
    probe = Probe(model)
    assert probe.short
    short = probe.moves, probe.silent_moves, probe.values
    probe.build_in_full()
    assert not probe.short
    assert short == (probe.moves, probe.silent_moves, probe.values)
    assert {("hidden_size",), ("moe_intermediate_size",)} <= {path for move in probe.moves for path in move.up}


def test_one_more_layer_shows_that_a_build_has_other_tensors(monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "vocab_size": 32}
    sizes |= {"num_experts": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    probe = Probe(Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_hidden_layers=11)))
    probe._remembered.forget_builds()
    made, original = [], Qwen3MoeAttention.__init__
    monkeypatch.setattr(
        Qwen3MoeAttention, "__init__", lambda self, *a, **k: (made.append(self), original(self, *a, **k))[1]
    )
    assert probe.try_entries({("num_hidden_layers",): 22}) is None
    assert len(made) == 4


def test_what_a_single_layer_does_otherwise_is_found_before_a_plan_is_made():
    """Layer 5 stands for none and looks like all others, until it is built under the new entries."""
    model = stack("one")
    assert trials(model, {("inner",): 24})[0] != trials(model, {("inner",): 24})[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShortBuilds, "worthwhile", False)
        Probe(model)._remembered.forget_builds()
        expected = plan(model)
    Probe(model)._remembered.forget_builds()
    found = plan(model)
    assert found.entries == expected.entries
    assert list(map(str, found.adjustments)) == list(map(str, expected.adjustments))
    assert found.adjustments
    assert Probe(model)._remembered.in_full


def test_constructors_are_as_they_were():
    original = Layer.__init__
    plan(stack())
    assert Layer.__init__ is original


def test_configurations_keep_their_own_text():
    config = Qwen3MoeConfig(num_hidden_layers=3)
    before = repr(config)
    made = config_from(config, document_of(config))
    assert repr(config) == before
    assert repr(made).startswith("Qwen3MoeConfig {")

"""Entries that no build reads need no builds of their own."""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moeverify.pruning.configuration.probe import Probe
from moeverify.pruning.configuration.reads import recorded_reads


class DerivesConfig(PretrainedConfig):
    """``narrow`` sets another entry while the configuration is made, and ``width`` is read by the module alone."""

    model_type = "derives_for_test"

    def __init__(self, size=12, narrow=None, **more):
        self.size = size if narrow is None else 2 * narrow
        super().__init__(**more)


class Derives(PreTrainedModel):
    config_class = DerivesConfig

    def __init__(self, config):
        super().__init__(config)
        width = getattr(config, "width", None)
        self.width = width or config.size // 3
        self.narrow, self.other = config.size // 2, 7
        self.up, self.side = nn.Linear(8, config.size), nn.Linear(8, self.width)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, x):
        return self.up(x), self.side(x)


def tried(probe):
    return {name for key in probe._remembered.built for name, _ in key}


def test_what_modules_or_the_configuration_read_is_tried_and_nothing_else():
    probe = Probe(Derives(DerivesConfig()))
    assert probe.pins == {("width",): 4, ("narrow",): 6}
    assert tried(probe) == {"('width',)", "('narrow',)"}


def test_names_of_attributes_that_a_transformers_model_does_not_read_are_not_built():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12, "vocab_size": 32}
    sizes |= {"num_experts": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    probe = Probe(Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_hidden_layers=2)))
    assert probe.pins == {}
    assert not probe._remembered.built


def test_a_class_looks_up_attributes_as_before():
    config = DerivesConfig()
    before = type(config).__getattribute__
    with recorded_reads(config) as names:
        assert config.size == 12
        assert not hasattr(config, "width")
    assert {"size", "width"} <= names
    assert type(config).__getattribute__ is before
    assert "__getattribute__" not in vars(DerivesConfig)

"""Right prunings of transformers models that no check may fail: common tables, helpers, models inside models."""

import copy

import pytest
import torch
from judged import problems, verdicts
from torch import nn
from transformers import (
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from moeverify.models.roles import find_roles
from moeverify.subjects.moe import prune_moe, prune_moe_experts
from moeverify.verdict import Status

GENERATOR = torch.Generator().manual_seed(0)
PAIR = {
    "input_ids": torch.randint(3, 60, (2, 8), generator=GENERATOR),
    "decoder_input_ids": torch.randint(3, 60, (2, 6), generator=GENERATOR),
}


def test_layers_that_add_one_table_of_biases_are_one_group():
    """Self-attention shares a parameter, attention to the encoder a tensor of zeros that its first layer makes."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    config = T5Config(**sizes, relative_attention_num_buckets=6, decoder_start_token_id=0)
    found = verdicts(T5ForConditionalGeneration(config), PAIR, checks=("coupling-minimal", "coupling-complete"))
    assert problems(found) == {}


@pytest.fixture(scope="module")
def nllb():
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_experts": 3}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_sparse_step": 1, "decoder_sparse_step": 0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = NllbMoeConfig(**sizes, **layers, **heads, expert_capacity=64, decoder_start_token_id=2)
    return NllbMoeForConditionalGeneration(config)


def test_helpers_among_the_experts_and_numbers_that_a_forward_rewrites(nllb):
    """NLLB keeps a dropout in the dictionary of its experts, and sets its router's capacity in each forward."""
    assert len(find_roles(nllb).experts) == 3
    router = nllb.model.encoder.layers[0].ffn.router
    before = router.expert_capacity

    def prune_and_run(model, example_inputs, *, pruning_ratio, seed):
        pruned = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
        model(**example_inputs)
        assert router.expert_capacity != before
        return pruned

    checks = ("router-intact", "expert-isolation", "config-in-step", "coupling-complete")
    assert problems(verdicts(nllb, PAIR, prune_and_run, checks)) == {}


def qwen():
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "moe_intermediate_size": 12, "num_hidden_layers": 1, "head_dim": 8}
    counts = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **counts))


class Holder(nn.Module):
    """A user's module round a transformers model."""

    def __init__(self):
        super().__init__()
        self.inner = qwen()

    def forward(self, input_ids):
        return self.inner(input_ids=input_ids, use_cache=False).logits


def test_a_transformers_model_inside_a_module_is_computed_in_float64():
    ids = {"input_ids": PAIR["input_ids"]}
    found = verdicts(Holder(), ids, prune_moe_experts, ("masked-equivalence", "coupling-complete", "shapes"))
    assert problems(found) == {}


@pytest.mark.parametrize("attribute", ["config", "save_pretrained"])
def test_a_subject_that_loses_the_configuration_fails(attribute):
    def prune(model, example_inputs, *, pruning_ratio, seed):
        setattr(model, attribute, None) if attribute == "config" else model.__dict__.update({attribute: None})
        if attribute == "save_pretrained":
            model.config = object()

    found = verdicts(qwen(), {"input_ids": PAIR["input_ids"]}, prune, ("config-in-step",))
    assert "has lost the configuration" in problems(found)["config-in-step"]


def test_experts_of_an_encoder_and_a_decoder_are_all_judged():
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_experts": 3}
    layers = {"num_layers": 2, "num_sparse_encoder_layers": 1, "num_decoder_layers": 2, "num_sparse_decoder_layers": 1}
    config = SwitchTransformersConfig(**sizes, **layers, expert_capacity=32, decoder_start_token_id=0)
    checks = ("expert-isolation", "forward-every-expert", "router-intact", "masked-equivalence", "config-in-step")
    found = verdicts(SwitchTransformersForConditionalGeneration(config), PAIR, checks=checks)
    assert problems(found) == {}
    assert len(found["forward-every-expert"].evidence["tokens"]) == 6


def test_experts_that_no_choice_of_the_router_runs_are_told_with_the_layer(nllb):
    """The release takes zeros and ones of the chosen experts for their numbers, so that only two of them ever run."""
    model = copy.deepcopy(nllb)
    found = verdicts(model, PAIR, checks=("forward-every-expert", "masked-equivalence"))
    assert {v.status for v in found.values()} == {Status.INCONCLUSIVE}
    assert "the scores of its router were raised for it, and the forward of model.encoder.layers.0.ffn ran others" in (
        found["forward-every-expert"].message
    )

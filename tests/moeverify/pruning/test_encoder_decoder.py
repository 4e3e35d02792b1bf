"""Mixtures of experts in encoder and decoder: the experts of both are pruned, and what stays says why."""

import pytest
import torch
from transformers import (
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

import moeverify as mv

PAIR = {
    "input_ids": torch.randint(3, 60, (2, 10), generator=torch.Generator().manual_seed(0)),
    "decoder_input_ids": torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(1)),
}
COMMON = {"vocab_size": 64, "d_model": 32, "num_experts": 4, "expert_capacity": 16}


def switch():
    config = SwitchTransformersConfig(
        **COMMON,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_sparse_encoder_layers=1,
        num_decoder_layers=2,
        num_sparse_decoder_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return SwitchTransformersForConditionalGeneration(config)


def nllb():
    config = NllbMoeConfig(
        **COMMON,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
        max_position_embeddings=64,
    )
    return NllbMoeForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [switch, nllb])
def test_experts_of_encoder_and_decoder_are_pruned(make):
    torch.manual_seed(0)
    model = make().eval()
    layers = mv.find_roles(model).layers
    assert ["encoder" in layer.container for layer in layers] == [True, False]
    assert all(len(layer.experts) == 4 and layer.routers for layer in layers)
    plan = mv.MoEPruner(model, PAIR, pruning_ratio=0.5).step()
    routed = [cut for cut in plan.cuts if cut.pruning_class.role == "routed_experts"]
    assert sum(max(cut.pruning_class.experts, 1) for cut in routed) == 8
    assert {(cut.before, cut.after) for cut in routed} == {(48, 24)}
    (hidden,) = (left for left in plan.left_alone if left["role"] == "hidden")
    assert "dimension of the model's output" in str(hidden["reason"])  # the encoder's states are an output
    with torch.no_grad():
        assert model(**PAIR).logits.shape == (2, 6, 64)

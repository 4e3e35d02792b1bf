"""Small transformers models that are no causal Mixture-of-Experts language models: dense ones, encoders, vision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

Made = tuple[nn.Module, dict[str, torch.Tensor]]
IDS = torch.arange(32).view(2, 16)
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": 128, "max_position_embeddings": 64}
GROUPED = {**TEXT, "num_key_value_heads": 2}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
T5 = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 128}
SIDES = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
         (("layers", 2), ("ffn_dim", 96), ("attention_heads", 4))}  # fmt: skip


def _causal(model_type: str, **entries: Any) -> Callable[[], Made]:
    return lambda: _made(AutoModelForCausalLM, AutoConfig.for_model(model_type, **entries), {"input_ids": IDS})


def _masked(model_type: str, **entries: Any) -> Callable[[], Made]:
    return lambda: _made(AutoModelForMaskedLM, AutoConfig.for_model(model_type, **entries), {"input_ids": IDS})


def _pairs(model_type: str, **entries: Any) -> Callable[[], Made]:
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS}
    return lambda: _made(AutoModelForSeq2SeqLM, AutoConfig.for_model(model_type, **entries), inputs)


def _vit() -> Made:
    config = AutoConfig.for_model("vit", num_labels=2, **IMAGE)
    return _made(AutoModelForImageClassification, config, {"pixel_values": PIXELS})


def _clip() -> Made:
    config = AutoConfig.for_model("clip", text_config=TEXT, vision_config=IMAGE, projection_dim=48)
    return _made(AutoModel, config, {"input_ids": IDS, "pixel_values": PIXELS, "attention_mask": torch.ones_like(IDS)})


def _made(kind: Any, config: Any, inputs: dict[str, torch.Tensor]) -> Made:
    torch.manual_seed(0)
    return kind.from_config(config).eval(), inputs


MODELS: dict[str, Callable[[], Made]] = {
    "llama": _causal("llama", **GROUPED),
    "gemma3": _causal("gemma3_text", **GROUPED, head_dim=16, sliding_window=8),
    "phi3": _causal("phi3", **GROUPED, pad_token_id=0),
    "gpt2": _causal("gpt2", n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=64),
    "opt": _causal("opt", **TEXT, ffn_dim=96, word_embed_proj_dim=64),
    "mamba": _causal("mamba", hidden_size=64, num_hidden_layers=2, vocab_size=128, state_size=8),
    "bert": _masked("bert", **TEXT),
    "t5": _pairs("t5", **T5),
    "switch_transformers": _pairs("switch_transformers", **T5, num_decoder_layers=2, num_experts=4),
    "bart": _pairs("bart", d_model=64, vocab_size=128, max_position_embeddings=64, **SIDES),
    "vit": _vit,
    "clip": _clip,
}

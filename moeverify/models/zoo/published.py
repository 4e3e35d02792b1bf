"""Entries for models of real size, where the defaults of a configuration class do not build one.

Most classes default to a published model. Some leave entries empty that the modelling code then reads, or default to a
model without experts. The missing entries are here, mostly from a published checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.errors import SourceError
from moeverify.models.zoo.registry import causal_config_class, is_zoo_type


@dataclass(frozen=True)
class Published:
    """Values that replace the defaults of a configuration class, and ``why`` those give no model with experts."""

    source: str
    why: str
    entries: Mapping[str, Any]


def _every(count: int, at: tuple[int, ...], there: str, elsewhere: str) -> list[str]:
    return [there if layer in at else elsewhere for layer in range(count)]


_GEMMA4 = Published(
    "sizes of google/gemma-4-26B-A4B",
    "without enable_moe_block there are no experts",
    {
        "enable_moe_block": True,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 1024,
    },
)
_QWEN4 = Published(
    "sizes of Qwen/Qwen4-Exp",
    "layers of indexed attention are the default, the sizes of their index are not",
    {
        "hidden_size": 2560,
        "num_hidden_layers": 48,
        "num_attention_heads": 24,
        "linear_num_value_heads": 48,
        "moe_intermediate_size": 640,
        "shared_expert_intermediate_size": 640,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 128,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [2],
        "split_ngram_parts": 128,
        "output_gate_type": "sigmoid",
        "eos_token_id": 248044,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
        },
    },
)
PUBLISHED: Mapping[str, Published] = {
    "dbrx": Published(
        "sizes of databricks/dbrx-base",
        "the attention asks attn_config for rope_theta, which it lacks",
        {
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "vocab_size": 100352,
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
    ),
    "deepseek_v2": Published(
        "sizes of deepseek-ai/DeepSeek-V2",
        "num_experts_per_tok is empty",
        {
            "hidden_size": 5120,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 160,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 8,
            "topk_group": 3,
            "routed_scaling_factor": 16.0,
        },
    ),
    "doge": Published("is_moe set", "there are no experts", {"is_moe": True}),
    "dots1": Published(
        "sizes of rednote-hilab/dots.llm1.base",
        "n_routed_experts and num_experts_per_tok are empty",
        {
            "hidden_size": 4096,
            "n_routed_experts": 128,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    ),
    "gemma4": Published(_GEMMA4.source, _GEMMA4.why, {"text_config": _GEMMA4.entries}),
    "gemma4_text": _GEMMA4,
    "granitemoehybrid": Published(
        "sizes of ibm-granite/granite-4.0-h-small",
        "all layers default to Mamba, where the model asks a layer of attention for the length of its cache",
        {
            "num_hidden_layers": 40,
            "layer_types": _every(40, (5, 15, 25, 35), "full_attention", "linear_attention"),
            "intermediate_size": 768,
            "shared_intermediate_size": 1536,
            "num_local_experts": 72,
            "num_experts_per_tok": 10,
            "num_key_value_heads": 8,
            "mamba_d_state": 128,
            "vocab_size": 100352,
            "tie_word_embeddings": True,
        },
    ),
    "hunyuan_v1_moe": Published(
        "sizes of tencent/Hunyuan-A13B-Instruct",
        "there is one expert, and head_dim is empty",
        {
            "num_experts": 64,
            "moe_topk": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "num_key_value_heads": 8,
            "vocab_size": 128167,
        },
    ),
    "lfm2_moe": Published(
        "sizes of LiquidAI/LFM2-8B-A1B",
        "layer_types is empty",
        {
            "num_hidden_layers": 24,
            "layer_types": _every(24, (2, 6, 10, 14, 18, 21), "full_attention", "conv"),
        },
    ),
    "qwen4_exp_text": _QWEN4,
}


def full_size_config(model_type: str) -> tuple[Any, str]:
    """The configuration of a type's real size, and a note on where it is from: empty for the class's own defaults.

    Raises ``SourceError`` for a type that the zoo does not have.
    """
    if not is_zoo_type(model_type):
        raise SourceError(f"the zoo has no {model_type!r}: it holds causal language models that can have experts")
    config_class = causal_config_class(model_type)
    published = PUBLISHED.get(config_class.model_type)
    if published is None:
        return config_class(), ""
    return config_class(**published.entries), f"{published.source}, since by default {published.why}"

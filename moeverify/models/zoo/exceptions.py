"""Entries of single types that the generic rule cannot derive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LLAMA4 = {"num_hidden_layers": 3, "moe_layers": [1, 2]}
_QWEN4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 24,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "ple_layer_ids": [1],
    "ple_embed_dim": 48,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 60,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
}
_GEMMA4 = {"attention_k_eq_v": True}
_DOTS3 = {"head_dim": 32}
EXCEPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Attention and experts come by period: attention with experts in layer 1, Mamba with experts in layer 3.
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 1},
    # The default has one expert, which is none.
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "head_dim": 24},
    # No default for the kinds of layers, or a default that shows only one of them.
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"]},
    "granitemoehybrid": {
        "shared_intermediate_size": 40,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "dots1": {"n_shared_experts": 2, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "laguna": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "mellum": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "zaya": {"layer_types": ["hybrid", "hybrid_sliding", "hybrid"], "sliding_window": 8},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]},
    "deepseek_v4": {
        "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 2,  # of eight compressed blocks: one that takes all of them would not depend on its weights
    },
    # No shared expert by default.
    "granitemoeshared": {"shared_intermediate_size": 40},
    "cohere2_moe": {"num_shared_experts": 2},
    "flint": {"mlp_only_layers": [0]},
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_moe": {"mlp_only_layers": [1]},
    # Value heads come in pairs to a key head, as in the real size.
    "qwen3_next": {"mlp_only_layers": [0], "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    # A layer's own head_dim has to be the sum of its two parts.
    "dots3_note_text": _DOTS3,
    # The attention's configuration is asked for entries that it does not have by default.
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0, "kv_n_heads": 2}},
    "llama4_text": _LLAMA4,
    # Layers of full attention take keys for values in every published size.
    "gemma4_text": _GEMMA4,
    "gemma4": {"text_config": _GEMMA4},
    "qwen4_exp_text": _QWEN4,
    # The vocabulary is padded, as in the real size.
    "inkling2_text": {"unpadded_vocab_size": 120},
}

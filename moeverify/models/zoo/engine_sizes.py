"""Sizes that other engines take: heads of 64, hidden sizes and experts in multiples of 64 that stay so when halved.

They come before ``SIZES`` and ``EXCEPTIONS``. Engines also leave out what published models never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeverify.models.zoo.exceptions import EXCEPTIONS

VOCABULARY = 256
ENGINE_SIZES: tuple[tuple[str, int], ...] = (
    (r"(unpadded_)?vocab_size.*", VOCABULARY),
    (r"hidden_size|d_model", 256),
    (r"(moe|expert|routed).*(intermediate|ffn).*size", 128),
    (r".*shared.*size", 128),
    (r".*(intermediate|ffn).*size.*", 256),
    (r"(moe_)?(n|num)_(routed_|local_)?experts", 8),
    (r"(swa_)?head_dim|kv_channels|global_head_dim", 64),
    (r"qk_nope_head_dim|v_head_dim", 128),
    (r"qk_rope_head_dim|rotary_dim", 64),
    (r"qk_head_dim", 192),
    (r"q_lora_rank", 64),
    (r"kv_lora_rank", 512),
    (r"index(er)?_head_dim", 128),
    (r"linear_(key_|value_)?head_dim", 64),
    (r"mamba_(d_head|head_dim)", 64),
    (r"(mamba_d|ssm)_state(_size)?", 64),
    (r"(original_)?max_position_embeddings|model_max_length|max_seq_len|n_ctx|rel_extent", 256),
)
# As in published files. Engines read entries that transformers' classes leave out, or assume the published values.
_SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
ENGINE_ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "deepseek_v2": {"scoring_func": "softmax"},
    "deepseek_v3": _SIGMOID,
    "deepseek_v32": _SIGMOID,
    "glm4_moe_lite": _SIGMOID,
    "glm_moe_dsa": _SIGMOID,
    "qwen2_moe": {"mlp_only_layers": []},
    "qwen3_moe": {"mlp_only_layers": [], "norm_topk_prob": True},
    "qwen3_next": {**EXCEPTIONS["qwen3_next"], "mlp_only_layers": [], "norm_topk_prob": True},
    "hunyuan_v1_moe": {"head_dim": 64},
    "dots3_note_text": {"head_dim": 192, "swa_head_dim": 192, "swa_qk_nope_head_dim": 128},
    "qwen4_exp_text": {**EXCEPTIONS["qwen4_exp_text"], "indexer_head_dim": 64},
}

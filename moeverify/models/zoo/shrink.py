"""One rule that makes any configuration tiny.

Three steps: sizes by the name of their entry (``SIZES``), layers picked so that each kind occurs, and ``EXCEPTIONS``
by type. Sizes are mutually distinct where an architecture allows it, so that a dimension is
recognised by its size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from moeverify.models.zoo.engine_sizes import ENGINE_ENTRIES, ENGINE_SIZES
from moeverify.models.zoo.exceptions import EXCEPTIONS
from moeverify.models.zoo.registry import causal_config_class

HIDDEN = 64
EXPERTS = 4
# Routers with groups score each by its best two, so that half of the experts can go only where a group has four.
GROUPED_EXPERTS = 8
TOP_K = 2
VOCABULARY = 128
LAYERS = 3

COUNTS = r"(moe_)?(n|num)_(routed_|local_)?experts"
GROUPS = r"(n|num)_(expert_)?groups?"
# The first pattern that matches an entry's whole name decides; sizes only ever get smaller.
Sizes = tuple[tuple[str, int], ...]
SIZES: Sizes = (
    (r"(unpadded_)?vocab_size.*", VOCABULARY),
    (r"hidden_size|d_model", HIDDEN),
    (r"(moe|expert|routed).*(intermediate|ffn).*size", 32),
    (r".*shared.*size", 40),
    (r".*(intermediate|ffn).*size.*", 56),
    (COUNTS, EXPERTS),
    (r"zero_expert_num", 2),
    (r"num_experts_per_tok(en)?|(moe_)?top_?k(_experts)?|moe_k", TOP_K),
    (r"(n|num)_(expert_)?groups?|o_groups", 2),
    (r"topk_group", 1),
    (r"(moe_)?(n|num)_shared_experts", 2),
    (r"(swa_)?(n|num)_(attention_)?heads|num_attention_heads_per_layer", 4),
    (r"(swa_)?(num_key_value_heads|kv_n_heads)", 2),
    (r"(swa_)?head_dim|kv_channels", 24),
    (r"qk_nope_head_dim", 16),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r"qk_head_dim", 24),
    (r"v_head_dim", 20),
    (r"q_lora_rank", 44),
    (r"kv_lora_rank", 28),
    (r"o_lora_rank", 12),
    (r"index(er)?_head_dim", 16),
    (r"index(er)?_(n_heads|kv_heads)", 2),
    (r"index_topk", 16),
    (r"index_block_size|index_topk_blocks", 4),
    (r"linear_(num_)?(key_|value_)?heads|linear_num_heads", 4),
    (r"linear_num_key_heads", 2),
    (r"linear_(key_)?head_dim", 12),
    (r"linear_value_head_dim", 20),
    (r"mamba_(n|num)_heads", 8),
    (r"mamba_(d_head|head_dim)", 16),
    (r"(mamba_d|ssm)_state(_size)?", 10),
    (r"mamba_dt_rank", 6),
    (r"(mamba_)?chunk_size|block_size", 8),
    (r"sliding_window(_size)?|attention_chunk_size|.*_window_size", 8),
    (r"(original_)?max_position_embeddings|model_max_length|max_seq_len|n_ctx|rel_extent", 128),
    (r"(num_hidden|n|num)_layers", LAYERS),
    (r"hc_(mult|count)", 3),
    (r".*_lowrank|.*_rank", 10),
    (r"router_hidden_size", 36),
    (r"hidden_size_per_layer_input", 12),
    (r".*(embed|latent)_(dim|size)", 48),
    (r".*_dim|.*_size", 16),
)
# Where the layers of a kind begin or how often they come: chosen so that few layers show every kind.
PERIODS: Mapping[str, int] = {
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
# Entries without a default that a model with experts needs.
NEEDED = re.compile(r"(num|n)_(routed_|local_)?experts|num_experts_per_tok|top_k_experts|moe_intermediate_size")
# An entry that equals others by default (the value is their sum) must do so when small.
TIED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("num_key_value_heads", ("num_attention_heads",)),
    ("swa_num_key_value_heads", ("swa_num_attention_heads",)),
    ("head_dim", ("qk_rope_head_dim",)),
    ("head_dim", ("qk_nope_head_dim", "qk_rope_head_dim")),
    ("qk_head_dim", ("qk_nope_head_dim", "qk_rope_head_dim")),
    ("swa_head_dim", ("head_dim",)),
)
SWITCHES = re.compile(r"is_moe|(enable|use)_moe(_block)?")
MOE_KIND = re.compile(r"moe|sparse(?!_attention)")
TOKENS = re.compile(r"(bos|eos|pad|eod|sep|cls|mask|unk)_token_id")


def shrunken_config(model_type: str, *, engine_ready: bool = False) -> Any:
    """A tiny configuration of ``model_type``; ``engine_ready``: small, in sizes that other engines take.

    Raises whatever transformers raises where that is impossible.
    """
    config_class = causal_config_class(model_type)
    exceptions = EXCEPTIONS.get(config_class.model_type, {})
    if not engine_ready:
        return _shrink(config_class, exceptions, SIZES)
    return _shrink(
        config_class, {**exceptions, **ENGINE_ENTRIES.get(config_class.model_type, {})}, (*ENGINE_SIZES, *SIZES)
    )


def _shrink(config_class: Any, exceptions: Mapping[str, Any], sizes: Sizes) -> Any:
    from transformers import PretrainedConfig

    nested = _nested(config_class)
    given = {name: value for name, value in exceptions.items() if name not in nested}
    default = config_class(**{k: v for k, v in given.items() if SWITCHES.fullmatch(k)})
    entries = {name: value for name, value in default.to_dict().items() if not name.startswith("_")}
    # Before transformers 5 every configuration carries how many tokens sampling chooses from.
    sampling = {"top_k"} & set(PretrainedConfig().to_dict())
    shrunk: dict[str, Any] = {}
    for name, value in entries.items():
        if name not in nested and name not in sampling and (small := _entry(name, value, sizes)) is not None:
            shrunk[name] = small
    for name, parts in TIED:
        if all(isinstance(entries.get(part), int) for part in parts) and entries.get(name) == sum(
            entries[part] for part in parts
        ):
            shrunk[name] = sum(shrunk[part] for part in parts)
    shrunk |= _layers(default, entries, shrunk, sizes)
    if any(re.fullmatch(GROUPS, name) and isinstance(value, int) and value > 1 for name, value in shrunk.items()):
        shrunk |= {name: GROUPED_EXPERTS for name, value in shrunk.items() if re.fullmatch(COUNTS, name) and value}
    for name, sub in nested.items():
        shrunk[name] = _shrink(sub, exceptions.get(name, {}), sizes)
    changed = {name: value for name, value in shrunk.items() if value is not None and value != entries.get(name)}
    return config_class(**(changed | given))


def _nested(config_class: Any) -> dict[str, Any]:
    """The configuration classes nested in one, those that may be left out aside (towers for images and sound)."""
    specs = getattr(config_class, "sub_configs_defaults", None) or {}
    nested = {name: sub for name, sub in getattr(config_class, "sub_configs", {}).items() if isinstance(sub, type)}
    return {name: sub for name, sub in nested.items() if not getattr(specs.get(name), "optional", False)}


def _entry(name: str, value: Any, sizes: Sizes) -> Any:
    """The small value of one entry, or ``None`` to leave it to the configuration class."""
    if isinstance(value, bool):
        return True if SWITCHES.fullmatch(name) else None
    if TOKENS.fullmatch(name):
        return {"bos_token_id": 0, "eos_token_id": 1}.get(name, None if value is None else 2)
    if isinstance(value, int):
        return PERIODS[name] if name in PERIODS else min(value, _size(name, value, sizes))
    if value is None and NEEDED.fullmatch(name):
        return _size(name, 0, sizes)
    if name == "rope_parameters" and isinstance(value, Mapping):
        return _rope(value)
    return None


def _size(name: str, value: int, sizes: Sizes) -> int:
    return next((small for pattern, small in sizes if re.fullmatch(pattern, name)), value)


def _rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters, nested by kind of layer or not, for a context of 128 positions."""
    small = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            value = _rope(value)
        elif name == "original_max_position_embeddings":
            value = min(value, 64)
        small[name] = value
    return small


def _layers(default: Any, entries: Mapping[str, Any], shrunk: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The per-layer lists and overrides of a few layers picked from the default configuration."""
    count = getattr(default, "num_hidden_layers", 0)
    lists = {
        name: list(value)
        for name, value in entries.items()
        if isinstance(value, list | tuple) and len(value) == count > 0 and not _indices(value)
    }
    overrides = {int(layer): values for layer, values in (entries.get("per_layer_config") or {}).items()}
    picked = _pick([tuple(str(values[i]) for values in lists.values()) for i in range(count)])
    result: dict[str, Any] = {"num_hidden_layers": len(picked)} if "num_hidden_layers" in entries else {}
    for name, values in lists.items():
        small = [_entry(name, values[i], sizes) for i in picked]
        chosen = [values[i] if entry is None else entry for i, entry in zip(picked, small, strict=True)]
        if set(chosen) == {"sparse"}:  # the architecture knows dense layers, the default has none
            chosen[0] = "dense"
        result[name] = chosen
    if overrides:
        result["per_layer_config"] = {
            position: {name: _scaled(name, value, entries, shrunk) for name, value in overrides[layer].items()}
            for position, layer in enumerate(picked)
            if layer in overrides
        }
    return result


def _indices(values: list | tuple) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values) and sorted(set(values)) == list(values)


def _pick(kinds: list[tuple[str, ...]]) -> list[int]:
    """Few layers that show every value of every list, those with experts at least twice; in the original order.

    Without lists, the first ``LAYERS`` layers.
    """
    if not any(kinds):
        return list(range(LAYERS))
    picked: list[int] = []
    seen: set[tuple[int, str]] = set()
    for layer, kind in enumerate(kinds):
        if new := set(enumerate(kind)) - seen:
            picked.append(layer)
            seen |= new
    experts = [layer for layer, kind in enumerate(kinds) if MOE_KIND.search(" ".join(kind))]
    while experts and sum(layer in experts for layer in picked) < 2:
        picked.append(next((layer for layer in experts if layer not in picked), experts[-1]))
    while len(picked) < LAYERS:
        picked.append(next((layer for layer in range(len(kinds)) if layer not in picked), len(kinds) - 1))
    return sorted(picked)


def _scaled(name: str, value: Any, entries: Mapping[str, Any], shrunk: Mapping[str, Any]) -> Any:
    """A layer's own value, in the proportion to the general one that it had before shrinking."""
    general, small = entries.get(name), shrunk.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not general or not small:
        return value
    return max(value * small // general, 1)

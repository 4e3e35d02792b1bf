"""Sizes that engines take: a table with sources and dates. What falls outside is a note, and no fault of a pruning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeverify.base.kernel_limits import MOST_CHOSEN_GROUPS, MOST_GROUPS, MOST_IN_A_GROUP

_COUNTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_FUSED_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512, 576)
_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


@dataclass(frozen=True)
class Limit:
    """One limit of an engine.

    Attributes:
        size: what is limited, a field of ``sizes_of``.
        holds: whether the value is taken, given the value and all sizes.
        text: the limit in words.
        source: where it is documented or reported.
        date: when that was written or read.
        types: model types that it holds for; empty for all.
        refuses: whether the engine refuses such a model, or only takes a slower way.

    """

    size: str
    holds: Callable[[int, Mapping[str, int]], bool]
    text: str
    source: str
    date: str
    types: tuple[str, ...] = ()
    refuses: bool = False


def sizes_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of a configuration that engines ask for; those that it does not have are left out."""
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, Mapping) else config
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    found = {
        "experts": next((config[name] for name in _COUNTS if isinstance(config.get(name), int)), None),
        "top_k": config.get("num_experts_per_tok"),
        "groups": config.get("n_group"),
        "topk_group": config.get("topk_group"),
        "hidden": hidden,
        "heads": heads,
        "expert_channels": config.get("moe_intermediate_size") or config.get("intermediate_size"),
        "head_size": config.get("head_dim")
        or (hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None),
    }
    return {name: value for name, value in found.items() if isinstance(value, int) and value > 0}


def _multiple(of: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda value, sizes: value % of == 0


def _one_of(*values: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda value, sizes: value in values


def _at_most(most: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda value, sizes: value <= most


def _groups_divide(value: int, sizes: Mapping[str, int]) -> bool:
    return value % sizes.get("groups", 1) == 0


def _all_heads(value: int, sizes: Mapping[str, int]) -> bool:
    heads = sizes.get("heads", 0) * sizes.get("head_size", 0)
    return not heads or value == heads


def _group_size(most: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda value, sizes: value // sizes.get("groups", value) <= most


_WORDS = ", ".join(map(str, _HEAD_SIZES)), ", ".join(map(str, _FUSED_COUNTS))
_DERIVED_HEADS = "the head size is worked out as hidden size / heads, whatever head_dim says"
_K_QUANTS = "k-quants want rows of a multiple of 256 values; others are quantised less far"
VLLM_LIMITS = (
    Limit("head_size", _one_of(*_HEAD_SIZES), f"attention on CPUs takes head sizes {_WORDS[0]}",
          "vllm 0.32.0, v1/attention/backends/cpu_attn.py", "read 2026-11-26", refuses=True),
    Limit("experts", _one_of(*_FUSED_COUNTS), f"the fused router kernel on GPUs takes {_WORDS[1]} experts",
          "vllm-project/vllm#50982", "2026-08-04", types=("deepseek_v4",), refuses=True),
    Limit("hidden", _all_heads, _DERIVED_HEADS, "vllm 0.32.0, model_executor/models/qwen2_moe.py", "read 2026-11-26",
          types=("qwen2_moe",), refuses=True),
    Limit("experts", _groups_divide, "experts that groups do not divide fall back to plain top-k",
          "vllm-project/vllm#29439", "read 2026-11"),
    Limit("experts", _multiple(2), "expert parallelism wants a count that its size divides",
          "vllm-project/vllm#52435", "read 2026-11"),
    Limit("groups", _at_most(MOST_GROUPS), "fused grouped routing takes at most 8 groups",
          "flashinfer-ai/flashinfer#5165", "read 2026-11"),
    Limit("topk_group", _at_most(MOST_CHOSEN_GROUPS), "fused grouped routing chooses at most 4 groups",
          "flashinfer-ai/flashinfer#5165", "read 2026-11"),
    Limit("experts", _group_size(MOST_IN_A_GROUP), "fused grouped routing on AMD takes at most 32 experts a group",
          "ROCm/aiter#2369", "read 2026-11"),
)  # fmt: skip
LLAMA_CPP_LIMITS = (
    Limit("hidden", _all_heads, _DERIVED_HEADS, "xllamacpp 2026.10.11549, reports/baselines/served.md",
          "tried 2026-11-26", types=("qwen2_moe",), refuses=True),
    Limit("hidden", _multiple(256), _K_QUANTS, "ggml-org/llama.cpp#1921", "2023-06-18"),
    Limit("expert_channels", _multiple(256), _K_QUANTS, "ggml-org/llama.cpp#1921", "2023-06-18"),
    Limit("experts", _groups_divide, "its metadata hold one number of experts a group",
          "llama.cpp, expert_group_count", "read 2026-11"),
)  # fmt: skip


def outside(limits: Sequence[Limit], folder: Path) -> list[str]:
    """One note for each limit that the checkpoint in a folder falls outside of; empty if there is no configuration."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [note(limit, sizes_of(config)) for limit in broken(limits, config)]


def broken(limits: Sequence[Limit], config: Mapping[str, Any]) -> list[Limit]:
    """The limits that a configuration falls outside of."""
    sizes, kind = sizes_of(config), config.get("model_type", "")
    return [
        limit
        for limit in limits
        if (not limit.types or kind in limit.types)
        and limit.size in sizes
        and not limit.holds(sizes[limit.size], sizes)
    ]


def note(limit: Limit, sizes: Mapping[str, int]) -> str:
    """A broken limit in words, with the nearest sizes that hold."""
    value = sizes[limit.size]
    near = nearest(limit, sizes)
    words = " or ".join(map(str, near))
    return f"{limit.size.replace('_', ' ')} {value}: {limit.text} ({limit.source}, {limit.date})" + (
        f"; nearest: {words}" if near else ""
    )


def nearest(limit: Limit, sizes: Mapping[str, int], most: int = 0) -> tuple[int, ...]:
    """The nearest smaller and larger size that holds; none above ``most`` if that is given."""
    value = sizes[limit.size]
    below = next((size for size in range(value - 1, 0, -1) if limit.holds(size, {**sizes, limit.size: size})), None)
    above = next(
        (size for size in range(value + 1, 2 * value + 577) if limit.holds(size, {**sizes, limit.size: size})), None
    )
    return tuple(size for size in (below, above) if size is not None and (not most or size <= most))

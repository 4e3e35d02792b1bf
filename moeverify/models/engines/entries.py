"""Entries of a configuration that engines read: each takes the first of several names of one number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

# Engine -> names of the number of experts, in the order in which it looks for them.
EXPERTS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "llama.cpp": ("num_local_experts", "num_experts", "n_routed_experts"),
}
ANY_EXPERTS = tuple(dict.fromkeys(name for names in EXPERTS.values() for name in names))
PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk")


def sizes_of(config: Mapping[str, Any], engine: str = "") -> dict[str, int]:
    """Sizes of a configuration that limits are about; those that it does not have are left out.

    >>> sizes_of({"num_experts": 8, "num_local_experts": 4}, "llama.cpp")
    {'experts': 4}
    """
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, Mapping) else config
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    result = {
        "experts": first(config, EXPERTS.get(engine, ANY_EXPERTS)),
        "top_k": first(config, PER_TOKEN),
        "groups": config.get("n_group"),
        "topk_group": config.get("topk_group"),
        "hidden": hidden,
        "heads": heads,
        "expert_channels": config.get("moe_intermediate_size") or config.get("intermediate_size"),
        "mamba_expand": config.get("mamba_expand"),
        "head_size": config.get("head_dim")
        or (hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None),
    }
    return {name: value for name, value in result.items() if is_number(value) and value > 0}


def router_sizes(experts: int, groups: int = 1, topk_group: int = 1, expert_parallel: int = 1) -> dict[str, int]:
    """Sizes of one router, under the names of ``sizes_of``; groups are left out where there is one."""
    grouped = {"groups": groups, "topk_group": topk_group} if groups > 1 else {}
    return {"experts": experts, **grouped, "expert_parallel": expert_parallel}


def read_by(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry that each engine takes the number of experts from, and its value.

    >>> read_by({"num_experts": 8, "num_local_experts": 4})["llama.cpp"]
    {'entry': 'num_local_experts', 'experts': 4}
    """
    result: dict[str, dict[str, Any]] = {}
    for part in parts(config):
        for engine, names in EXPERTS.items():
            name = next((n for n in names if is_number(part.get(n))), None)
            if name is not None:
                result.setdefault(engine, {"entry": name, "experts": part[name]})
    return result


def first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of several entries that holds a whole number."""
    return next((config[name] for name in names if is_number(config.get(name))), None)


def parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and those inside of it."""
    yield config
    yield from (value for value in config.values() if isinstance(value, Mapping))


def is_number(value: Any) -> TypeGuard[int]:
    """Whether an entry is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)

"""What engines read from a configuration: each takes the first of several names of one entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Engine -> names of the number of experts, in the order in which it looks for them.
EXPERTS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "llama.cpp": ("num_local_experts", "num_experts", "n_routed_experts"),
}
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk")


def read_by(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each engine the entry that it takes the number of experts from, and what that says.

    >>> read_by({"num_experts": 8, "num_local_experts": 4})["llama.cpp"]
    {'entry': 'num_local_experts', 'experts': 4}
    """
    found: dict[str, dict[str, Any]] = {}
    for part in parts(config):
        for engine, names in EXPERTS.items():
            name = next((n for n in names if is_number(part.get(n))), None)
            if name is not None:
                found.setdefault(engine, {"entry": name, "experts": part[name]})
    return found


def contradictions(config: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    """Names of one entry that say different things here, and do not in the base."""
    theirs = {names for part in parts(base) for names in _differing(part)}
    for part in parts(config):
        for names in _differing(part):
            if names in theirs:
                continue
            told = " and ".join(f"{name} = {part[name]}" for name in names)
            taken = ", ".join(f"{engine} takes {read['experts']}" for engine, read in read_by(part).items())
            yield f"config.json has {told}: engines differ in which they read" + (
                f" ({taken})" if names[0] not in _PER_TOKEN else ""
            )


def parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and those inside of it."""
    yield config
    yield from (value for value in config.values() if isinstance(value, Mapping))


def is_number(value: Any) -> bool:
    """Whether an entry is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _differing(part: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    counts = tuple(sorted({name for names in EXPERTS.values() for name in names}))
    for family in (counts, _PER_TOKEN):
        names = tuple(name for name in family if is_number(part.get(name)))
        if len({part[name] for name in names}) > 1:
            yield names

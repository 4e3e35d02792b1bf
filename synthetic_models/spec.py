"""The description from which a synthetic MoE model is built: small, frozen, JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from synthetic_models.names import FAMILIES

LAYERS = ("moe", "dense")
NORMS = ("rms", "layer")
RESIDUALS = ("pre", "post", "parallel")
ATTENTIONS = ("none", "multi_head", "grouped_query", "per_head_norm", "latent")
STORAGES = ("listed", "fused", "fused_transposed", "fused_interleaved", "per_projection")
ACTIVATIONS = ("mlp", "swiglu", "geglu")
ROUTERS = ("softmax", "sigmoid", "group_limited", "noisy", "expert_choice", "hash", "soft")
SHARED = ("none", "one", "several", "gated")
CORRECTIONS = ("parameter", "buffer", "block")
DTYPES = ("float32", "float64", "bfloat16", "float16")
CYCLES = (
    "ladder",
    "twice",
    "shared_layers",
    "chain",
    "ring",
    "rotate_half",
    "roll",
    "cat_slice",
    "tied_experts",
    "shared_experts_between_layers",
)
# Cycles through which an expert feeds another, or is another.
BETWEEN_EXPERTS = ("tied_experts", "chain", "shared_experts_between_layers")
KINDS: Mapping[str, tuple[str, ...]] = {
    "names": tuple(FAMILIES),
    "norm": NORMS,
    "residual": RESIDUALS,
    "attention": ATTENTIONS,
    "storage": STORAGES,
    "activation": ACTIVATIONS,
    "router": ROUTERS,
    "correction": CORRECTIONS,
    "shared": SHARED,
    "dtype": DTYPES,
}
MAX_STRENGTH = 64


@dataclass(frozen=True)
class Cycle:
    """An injected cycle: a kind of ``CYCLES`` and how strongly (rungs, calls, turns, experts: see ``cycles.py``)."""

    kind: str
    strength: int = 1

    def __post_init__(self) -> None:
        if self.kind not in CYCLES:
            raise ValueError(f"unknown cycle {self.kind!r}; the kinds are {', '.join(CYCLES)}")
        if not _is_int(self.strength) or not 1 <= self.strength <= MAX_STRENGTH:
            raise ValueError(f"the strength of {self.kind} must be between 1 and {MAX_STRENGTH}, not {self.strength!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, repr=False)
class Spec:
    """A synthetic MoE language model. Every field has a default, the smallest model being ``Spec()``.

    ``layers`` names the feed-forward part of each layer (``moe`` or ``dense``), ``widths`` the intermediate size of
    each routed expert, ``group`` the query heads for each key/value head, ``router_hidden`` the size of the router's
    hidden layer (0: none), ``features`` the width of a second, floating-point input (0: token numbers alone).
    A ``group_limited`` router chooses ``chosen_groups`` of ``groups``, each scored by its best ``group_scores``
    experts. ``correction`` says where the correction bias lies: a parameter or a buffer of the router, or a parameter
    of the MoE block. ``expert_scale`` multiplies routing weights by a parameter for each expert; ``zero_experts`` are
    further choices that return the token as it is. A ``hash`` router holds ``top_k`` expert ids for each token of the
    vocabulary, and weighs several of them by scores.
    Raises ``ValueError`` with one line for a model that cannot be meant.
    """

    layers: tuple[str, ...] = ("moe",)
    hidden: int = 8
    vocab: int = 16
    batch: int = 2
    length: int = 4
    names: str = "qwen"
    norm: str = "rms"
    residual: str = "pre"
    attention: str = "none"
    kv_heads: int = 2
    group: int = 1
    head_dim: int = 4
    storage: str = "listed"
    activation: str = "mlp"
    bias: bool = False
    widths: tuple[int, ...] = (4, 4)
    router: str = "softmax"
    top_k: int = 1
    router_hidden: int = 0
    groups: int = 2
    chosen_groups: int = 1
    group_scores: int = 1
    correction: str = "parameter"
    expert_scale: bool = False
    zero_experts: int = 0
    shared: str = "none"
    shared_width: int = 4
    dense_width: int = 4
    latent: int = 4
    tied_embeddings: bool = False
    features: int = 0
    dtype: str = "float32"
    cycles: tuple[Cycle, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def experts(self) -> int:
        """Number of routed experts in an MoE layer."""
        return len(self.widths)

    @property
    def gated(self) -> bool:
        """Whether an expert multiplies its up projection with an activated gate."""
        return self.activation != "mlp"

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the MoE layers."""
        return tuple(i for i, kind in enumerate(self.layers) if kind == "moe")

    def strength(self, kind: str) -> int:
        """Strength of an injected cycle; 0 if it is not there."""
        return sum(cycle.strength for cycle in self.cycles if cycle.kind == kind)

    def to_json(self) -> str:
        """What differs from the default, as JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the default, as plain data."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if "cycles" in data:
            data["cycles"] = [[cycle.kind, cycle.strength] for cycle in self.cycles]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of ``to_json``. Raises ``ValueError`` with one line."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Spec:
        """The inverse of ``to_dict``. Raises ``ValueError`` with one line."""
        if not isinstance(data, Mapping):
            raise ValueError(f"a specification is a JSON object, not {type(data).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"unknown field {unknown[0]!r}; the fields are {', '.join(sorted(known))}")
        values = dict(data)
        if "cycles" in values:
            values["cycles"] = tuple(_cycle(item) for item in _listed("cycles", values["cycles"]))
        for name in ("layers", "widths"):
            if name in values:
                values[name] = tuple(_listed(name, values[name]))
        return cls(**values)

    def __repr__(self) -> str:
        changed = [f for f in fields(self) if f.default is MISSING or getattr(self, f.name) != f.default]
        return f"Spec({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {value!r}")
    return list(value)


def _cycle(item: Any) -> Cycle:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise ValueError(f"a cycle is a pair [kind, strength], not {item!r}")
    return Cycle(*item)


MOST_WEIGHTS = 500_000_000
# Field -> the smallest and the largest value that can be meant.
_RANGES = {
    "hidden": (2, 4096), "vocab": (2, 100_000), "batch": (1, 64), "length": (1, 512), "kv_heads": (1, 64),
    "group": (1, 16), "head_dim": (2, 256), "top_k": (1, 256), "router_hidden": (0, 4096), "groups": (2, 64),
    "chosen_groups": (1, 64), "group_scores": (1, 2), "zero_experts": (0, 64), "shared_width": (2, 4096),
    "dense_width": (2, 4096), "latent": (2, 4096), "features": (0, 4096), "seed": (0, 2**62),
}  # fmt: skip


def _check(spec: Spec) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(spec, name)
        if not _is_int(value) or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    for name, allowed in KINDS.items():
        if getattr(spec, name) not in allowed:
            raise ValueError(f"unknown {name} {getattr(spec, name)!r}; use one of {', '.join(allowed)}")
    for name in ("bias", "tied_embeddings", "expert_scale"):
        if not isinstance(getattr(spec, name), bool):
            raise ValueError(f"{name} must be true or false, not {getattr(spec, name)!r}")
    if not spec.layers or len(spec.layers) > 64 or any(kind not in LAYERS for kind in spec.layers):
        raise ValueError(f"layers must name 1 to 64 of {', '.join(LAYERS)}, not {spec.layers!r}")
    if not 2 <= spec.experts <= 1024 or any(not _is_int(w) or not 2 <= w <= 4096 for w in spec.widths):
        raise ValueError(f"widths must hold 2 to 1024 sizes from 2 to 4096, not {spec.widths!r}")
    weights = 3 * len(spec.layers) * spec.hidden * (sum(spec.widths) + spec.shared_width + spec.dense_width)
    if weights + spec.hidden * spec.vocab > MOST_WEIGHTS:
        raise ValueError(f"the model would have about {weights:,} weights; the limit is {MOST_WEIGHTS:,}")
    if any(not isinstance(cycle, Cycle) for cycle in spec.cycles):
        raise ValueError(f"cycles must hold Cycle objects, not {spec.cycles!r}")
    if len({cycle.kind for cycle in spec.cycles}) < len(spec.cycles):
        raise ValueError("each kind of cycle can be injected once; raise its strength instead")
    _check_experts(spec)
    if spec.head_dim % 2:
        raise ValueError(f"head_dim must be even, not {spec.head_dim}")
    if spec.attention == "multi_head" and spec.group != 1:
        raise ValueError(f"multi_head attention has one query head a key head; group must be 1, not {spec.group}")
    if spec.attention == "latent" and spec.group != 1:
        raise ValueError(f"latent attention expands its keys for every head; group must be 1, not {spec.group}")
    if spec.attention != "none" and spec.kv_heads * spec.group < 2:
        raise ValueError("attention needs at least two heads; one alone cannot be pruned as a head")
    _check_cycles(spec)


def _check_experts(spec: Spec) -> None:
    if spec.storage != "listed" and len(set(spec.widths)) > 1:
        raise ValueError(f"{spec.storage} experts are stacked and need equal widths, not {spec.widths!r}")
    if spec.storage == "fused_interleaved" and not spec.gated:
        raise ValueError("fused_interleaved experts interleave gate and up, so activation cannot be mlp")
    if spec.top_k > spec.experts:
        raise ValueError(f"top_k {spec.top_k} exceeds the {spec.experts} experts")
    _check_router(spec)
    if spec.router == "hash" and spec.router_hidden:
        raise ValueError("a hash router has no hidden layer; router_hidden must be 0")
    if spec.router_hidden == 1:
        raise ValueError("router_hidden must be 0 (none) or at least 2")


def _check_router(spec: Spec) -> None:
    if spec.router == "group_limited":
        each = spec.experts // spec.groups
        if spec.experts % spec.groups or each < 2 or spec.chosen_groups > spec.groups:
            raise ValueError(
                f"{spec.groups} groups, of which {spec.chosen_groups} are chosen, must have at least two of the "
                f"{spec.experts} experts each and equally many"
            )
        if spec.top_k > spec.chosen_groups * each:
            raise ValueError(f"top_k {spec.top_k} exceeds the {spec.chosen_groups * each} experts of the chosen groups")
    elif (spec.groups, spec.chosen_groups, spec.group_scores) != (2, 1, 1):
        raise ValueError(f"groups belong to a group_limited router, not to {spec.router}")
    if spec.correction != "parameter" and spec.router not in ("sigmoid", "group_limited"):
        raise ValueError(f"a {spec.router} router has no correction bias, so correction must be parameter")
    if spec.expert_scale and spec.router in ("expert_choice", "hash", "soft"):
        raise ValueError(f"expert_scale needs a router that weights chosen experts, not {spec.router}")
    if spec.zero_experts and spec.router not in ("softmax", "sigmoid"):
        raise ValueError(f"zero_experts need a softmax or sigmoid router, not {spec.router}")


def _check_cycles(spec: Spec) -> None:
    for kind, parts in (("rotate_half", 2), ("cat_slice", 4)):
        if spec.strength(kind) and spec.hidden % parts:
            raise ValueError(f"{kind} needs a hidden size divisible by {parts}, not {spec.hidden}")
    tied = spec.strength("tied_experts")
    if tied:
        if spec.storage != "listed":
            raise ValueError("tied_experts needs listed experts; a stacked parameter has nothing to tie")
        if tied >= spec.experts or len(set(spec.widths[: tied + 1])) > 1:
            raise ValueError(f"tied_experts of strength {tied} needs {tied + 1} experts of equal width first")
    if spec.strength("chain") >= spec.experts:
        raise ValueError(f"a chain of strength n needs n + 1 experts; there are {spec.experts}")
    for kind in ("tied_experts", "chain", "ring", "shared_experts_between_layers"):
        if spec.strength(kind) and not spec.moe_layers:
            raise ValueError(f"{kind} needs an MoE layer")
    between = spec.strength("shared_experts_between_layers")
    if between and between >= len(spec.moe_layers):
        raise ValueError(f"shared_experts_between_layers of strength {between} needs {between + 1} MoE layers")

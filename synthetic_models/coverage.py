"""Which kinds and pairs of kinds of specs were drawn, so that none is silently never tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations

from synthetic_models.spec import CYCLES, KINDS, LAYERS, Spec

# Precision aside, every field with kinds; then what a spec has or has not.
_FIELDS = tuple(name for name in KINDS if name != "dtype")
_TRAITS = ("bias", "tied_embeddings", "router_hidden", "features", "unequal widths", "several top-k", "bfloat16",
           "expert scale", "zero experts", "several groups", "groups scored by two")  # fmt: skip
# Pairs that no spec can have: a stacked parameter is of one width and has no two parameters to tie.
_CORRECTED = ("router=sigmoid", "router=group_limited")
_ROUTERS_OF: Mapping[str, Iterable[str]] = {
    "correction=buffer": _CORRECTED,
    "correction=block": _CORRECTED,
    "expert scale": ("router=softmax", "router=noisy", *_CORRECTED),
    "zero experts": ("router=softmax", "router=sigmoid"),
    "several groups": ("router=group_limited",),
    "groups scored by two": ("router=group_limited",),
}
_STACKED = ("fused", "fused_transposed", "fused_interleaved", "per_projection")


def kinds_of(spec: Spec) -> frozenset[str]:
    """What a spec is an example of, as ``field=kind``, ``layer=kind``, ``cycle=kind`` or a trait."""
    kinds = {f"{name}={getattr(spec, name)}" for name in _FIELDS}
    kinds |= {f"layer={kind}" for kind in spec.layers} | {f"cycle={cycle.kind}" for cycle in spec.cycles}
    traits = {
        "bias": spec.bias,
        "tied_embeddings": spec.tied_embeddings,
        "router_hidden": spec.router_hidden,
        "features": spec.features,
        "unequal widths": len(set(spec.widths)) > 1,
        "several top-k": spec.top_k > 1,
        "bfloat16": spec.dtype == "bfloat16",
        "expert scale": spec.expert_scale,
        "zero experts": spec.zero_experts > 0,
        "several groups": spec.groups > 2 or spec.chosen_groups > 1,
        "groups scored by two": spec.group_scores > 1,
    }
    return frozenset(kinds | {trait for trait, has in traits.items() if has})


def all_kinds() -> tuple[str, ...]:
    """Every kind there is."""
    fields = [f"{name}={kind}" for name in _FIELDS for kind in KINDS[name]]
    return (*fields, *(f"layer={k}" for k in LAYERS), *(f"cycle={k}" for k in CYCLES), *_TRAITS)


def possible_pair(first: str, second: str) -> bool:
    """Whether a spec can be of both kinds."""
    fields = [kind.partition("=")[0] for kind in (first, second)]
    if fields[0] == fields[1] and fields[0] not in ("layer", "cycle"):
        return False
    both = {first, second}
    if both & {f"storage={name}" for name in _STACKED} and both & {"unequal widths", "cycle=tied_experts"}:
        return False
    if both in ({"storage=fused_interleaved", "activation=mlp"}, {"router=hash", "router_hidden"}):
        return False
    # Kinds of these routers alone; two kinds without a common router exclude each other.
    routers = [_ROUTERS_OF.get(kind, {kind} if kind.startswith("router=") else None) for kind in (first, second)]
    return None in routers or bool(set(routers[0] or ()) & set(routers[1] or ()))


class SpecCoverage:
    """Counts of kinds and pairs of kinds over many specs. ``counts`` is plain data that can be merged."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})

    def add(self, spec: Spec) -> None:
        """Count one spec."""
        kinds = sorted(kinds_of(spec))
        self.counts.update(kinds)
        self.counts.update(" & ".join(pair) for pair in combinations(kinds, 2))
        self.counts["specs"] += 1

    def merge(self, counts: Mapping[str, int]) -> None:
        """Add the counts of another one, such as those of another process."""
        self.counts.update(counts)

    def missing_kinds(self) -> list[str]:
        """Kinds never drawn."""
        return [kind for kind in all_kinds() if not self.counts[kind]]

    def pairs(self) -> tuple[int, list[str]]:
        """How many pairs can be drawn, and which of them never were."""
        possible = [tuple(sorted(p)) for p in combinations(all_kinds(), 2) if possible_pair(*p)]
        return len(possible), [" & ".join(pair) for pair in possible if not self.counts[" & ".join(pair)]]

    def lines(self) -> list[str]:
        """A summary to print."""
        count, missing = self.pairs()
        total = len(all_kinds())
        return [
            f"{self.counts['specs']} specs; {total - len(self.missing_kinds())} of {total} kinds and "
            f"{count - len(missing)} of {count} pairs of kinds drawn",
            *_wrapped("never drawn", self.missing_kinds()),
            *_wrapped("pairs never drawn", missing),
        ]


def _wrapped(title: str, names: Iterable[str], most: int = 20) -> list[str]:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{title}: {', '.join(names[:most])}{rest}"] if names else []

"""Hypothesis strategies over specs, weighted towards trouble.

Sizes come from few small values, so that hidden size, widths, vocabulary and number of tokens often coincide; cycles
and rare layouts are as likely as plain ones. Everything shrinks towards ``Spec()``: the first choice of each field is
its default, and no kind saves draws that the default makes.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from synthetic_models.spec import (
    ACTIVATIONS,
    ATTENTIONS,
    BETWEEN_EXPERTS,
    CORRECTIONS,
    NORMS,
    RESIDUALS,
    ROUTERS,
    SHARED,
    STORAGES,
    Cycle,
    Spec,
)

# Each place where layers can differ: one alone, dense ones before, between and after.
LAYERS = (
    ("moe",),
    ("moe", "moe"),
    ("dense", "moe"),
    ("moe", "dense"),
    ("moe", "dense", "moe"),
    ("dense", "moe", "moe"),
)
FAMILIES = ("qwen", "mixtral", "fairseq", "arbitrary")
# Strengths that shrink to 1; a long ladder has a million paths.
STRENGTHS = {"ladder": (1, 2, 6, 20), "twice": (1, 2, 4), "rotate_half": (1, 2, 4), "cat_slice": (1, 2, 3)}


@st.composite
def specs(
    draw: st.DrawFn,
    *,
    families: tuple[str, ...] = FAMILIES,
    dtypes: tuple[str, ...] = ("float32", "float32", "float32", "bfloat16"),
    injected: bool = True,
    spare: bool = False,
) -> Spec:
    """Specs of tiny models: 10 to 40 ms to build and trace.

    ``injected`` allows cycles. ``spare`` draws what whole experts can be removed from: tokens choose them, each by
    itself, and more than a token needs.
    """
    one = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    fields: dict[str, Any] = {"layers": one(*LAYERS), "storage": one(*STORAGES, "listed")}
    interleaved = fields["storage"] == "fused_interleaved"
    fields["activation"] = one(*(ACTIVATIONS[1:] if interleaved else ACTIVATIONS))
    fields["router"] = one(*(r for r in ROUTERS if not spare or r != "expert_choice"))
    grouped = fields["router"] == "group_limited"
    count = one(*(((6, 8, 9) if grouped else (4, 5, 6)) if spare else ((4, 6, 8) if grouped else (2, 3, 4))))
    fields["widths"] = _widths(draw, count, fields["storage"])
    fields |= _grouped(draw, count, least=3 if spare else 2) if grouped else {}
    most = fields["chosen_groups"] * count // fields["groups"] if grouped else count
    if spare:
        most = fields["chosen_groups"] * (count // fields["groups"] - 1) if grouped else count - 2
    fields["top_k"] = one(*range(1, 1 + min(3, most)))
    router_hidden = one(0, 4, 8)
    if fields["router"] != "hash":
        fields["router_hidden"] = router_hidden
    correction, scale, zero = one(*CORRECTIONS), one(False, True), one(0, 0, 1, 2)
    if fields["router"] in ("sigmoid", "group_limited"):
        fields["correction"] = correction
    if fields["router"] not in ("hash", "expert_choice", "soft"):
        fields["expert_scale"] = scale
    if fields["router"] in ("softmax", "sigmoid"):
        fields["zero_experts"] = zero
    fields["shared"] = one(*SHARED)
    if fields["shared"] != "none":
        fields["shared_width"] = one(4, 8)
    fields["attention"] = one(*ATTENTIONS)
    if fields["attention"] != "none":
        wide = fields["attention"] in ("multi_head", "latent")
        fields["kv_heads"], fields["group"] = one(*((2, 1), (4, 1)) if wide else ((2, 1), (1, 2), (2, 2), (1, 4)))
        fields["head_dim"] = one(4, 2, 8)
    if fields["attention"] == "latent":
        fields["latent"] = one(4, 6, 8)
    if "dense" in fields["layers"]:
        fields["dense_width"] = one(4, 8)
    fields |= {
        "hidden": one(8, 4, 12, 16),
        "vocab": one(16, 8),
        "batch": one(2, 1),
        "length": one(4, 8, 3),
        "names": one(*families),
        "norm": one(*NORMS),
        "residual": one(*RESIDUALS),
        "bias": one(False, True),
        "tied_embeddings": one(False, True),
        "features": one(0, 0, 4, 8),
        "dtype": one(*dtypes),
        "seed": draw(st.integers(0, 999)),
    }
    if injected:
        fields["cycles"] = draw(cycles(fields, without=BETWEEN_EXPERTS if spare else ()))
    return Spec(**fields)


def _grouped(draw: st.DrawFn, count: int, least: int) -> dict[str, int]:
    """Groups of at least ``least`` experts each, of which not all are chosen."""
    groups = draw(st.sampled_from([n for n in (2, 4, 3) if count % n == 0 and count // n >= least]))
    chosen = draw(st.sampled_from(range(1, groups)))
    return {"groups": groups, "chosen_groups": chosen, "group_scores": draw(st.sampled_from((1, 2)))}


def _widths(draw: st.DrawFn, count: int, storage: str) -> tuple[int, ...]:
    width = st.sampled_from((4, 8, 6))
    first, unequal = draw(width), draw(st.booleans())
    if storage != "listed" or not unequal:
        return (first,) * count
    return (first, *(draw(width) for _ in range(count - 1)))


def possible_cycles(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The cycles that a spec of these fields can have, each with the strengths to draw from."""
    widths, moe = fields["widths"], fields["layers"].count("moe")
    equal = 1 + next((n for n, w in enumerate(widths[1:]) if w != widths[0]), len(widths) - 1)
    possible = {**STRENGTHS, "shared_layers": (1, 2), "ring": (1, 2), "roll": (1, 3)}
    possible["chain"] = tuple(range(1, len(widths)))
    if fields["storage"] == "listed" and equal > 1:
        possible["tied_experts"] = tuple(range(1, equal))
    if moe > 1:
        possible["shared_experts_between_layers"] = tuple(range(1, moe))
    return possible


def cycles(fields: dict[str, Any], without: tuple[str, ...] = ()) -> st.SearchStrategy[tuple[Cycle, ...]]:
    """Up to three kinds of cycles, none of those in ``without``."""
    possible = {kind: strengths for kind, strengths in possible_cycles(fields).items() if kind not in without}
    drawn = st.tuples(st.sampled_from(sorted(possible)), st.integers(0, 3))
    return st.lists(drawn, max_size=3, unique_by=lambda pair: pair[0]).map(
        lambda pairs: tuple(Cycle(k, possible[k][min(n, len(possible[k]) - 1)]) for k, n in pairs)
    )

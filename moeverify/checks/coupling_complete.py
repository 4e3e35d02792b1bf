"""``coupling-complete``"""

from __future__ import annotations

import numpy as np

from moeverify.checks.context import Context
from moeverify.checks.evidence.liveness import Held, Laboratory, chosen_units, joint, places
from moeverify.checks.reference import compared
from moeverify.checks.registry import Finding, check, failed, passed, skipped


@check("coupling-complete")
def coupling_complete(context: Context) -> Finding:
    """Proves that nobody is missing from the subject's groups: with one unit of every group held at zero, no other
    weight of the model loses its effect on the output, as it would if it belonged to what was removed.

    The evidence is gradients in float64 of the original model on several inputs; it shares no code with the trace that
    our own groups come from. Where more is known, groups are compared with it unit by unit as well: with the ground
    truth of a synthetic model, and for other subjects than ours with our trace. Sees nothing of experts that no token
    reached, nor of weights without effect in the original. Group sizes are not judged: a subject may leave out what it
    does not want to prune.
    """
    classes = context.outcome.classes
    if not classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    wrong, origin = compared(context, "missing")
    if wrong is not None:
        return wrong
    laboratory = context.laboratory
    chosen = chosen_units(context.seed, laboratory, classes)
    held = joint(unit.held for unit in chosen)
    if missing := _missing(laboratory, held):
        for unit in chosen:
            if found := _missing(laboratory, unit.held):
                group = unit.group.name
                return failed(
                    f"the group {group} lacks {found[0]}: with one unit held at zero, nobody uses it any more",
                    group=group,
                    missing=found[:50],
                    unit=[p for (n, d), mask in unit.held.items() for p in places(n, d, mask)][:50],
                )
        return failed(f"{missing[0]} belongs to some group and is in none", missing=missing[:50])
    more = f", as {origin} does" if origin else ""
    return passed(f"{len(classes)} groups take everything along that goes with them{more}")


def _missing(laboratory: Laboratory, held: Held) -> list[str]:
    """Places outside ``held`` that lose their gradient with it, on one set of inputs and on another."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for first in (0, 100):
        under = laboratory.gradients(held, first)
        for name, shape in laboratory.sizes.items():
            for dim in range(len(shape)):
                if (first and (name, dim) not in found) or (name, dim) in laboratory.counts_experts:
                    continue
                lost = laboratory.lost(name, dim, under)
                if lost is not None and (name, dim) in held:
                    lost &= ~held[name, dim]
                if lost is not None and first:
                    lost &= found[name, dim]
                if lost is not None and lost.any():
                    found[name, dim] = lost
                else:
                    found.pop((name, dim), None)
        if not found:
            break
    return [place for (name, dim), mask in sorted(found.items()) for place in places(name, dim, mask)]

"""``coupling-complete``"""

from __future__ import annotations

import numpy as np

from moeverify.checks.context import Context
from moeverify.checks.evidence.liveness import Laboratory, Zeroed, chosen_units, joint, places
from moeverify.checks.reference import compared
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped

# With so many other weights a place is tried, and so often it has to lose its gradient.
_TRIALS, _AGAIN = 6, 3


@check("coupling-complete")
def coupling_complete(context: Context) -> Finding:
    """Proves that the subject's groups are complete. With one unit of every group set to zero, no other weight loses
    its effect on the output. A weight that belonged to the unit would lose it.

    The evidence is gradients in float64 of the original model, on several inputs and with other weights. It shares no
    code with the trace that our own groups come from. Groups are also compared unit by unit where more is known.
    Synthetic models have a ground truth, and other subjects are compared with our trace. Sees nothing of experts that
    no token reached, nor of weights without effect in the original. Group sizes are not judged: a subject may leave out
    what it does not want to prune.
    """
    classes = context.outcome.classes
    if not classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    wrong, origin = compared(context, "missing")
    if wrong is not None:
        return wrong
    if reason := context.without_laboratory:
        return inconclusive(reason)
    laboratory = context.laboratory
    chosen = chosen_units(context.seed, laboratory, classes)
    zeroed = joint(unit.zeroed for unit in chosen)
    if missing := _missing(laboratory, zeroed):
        for unit in chosen:
            if missing_places := _missing(laboratory, unit.zeroed):
                group = unit.group.name
                return failed(
                    f"the group {group} lacks {missing_places[0]}: with one unit at zero, it has no effect any more",
                    group=group,
                    missing=missing_places[:50],
                    unit=[p for (n, d), mask in unit.zeroed.items() for p in places(n, d, mask)][:50],
                )
        return failed(f"{missing[0]} can be pruned and is in no group", missing=missing[:50])
    more = f", as {origin} does" if origin else ""
    return passed(f"{len(classes)} groups take everything along that goes with them{more}")


def _missing(laboratory: Laboratory, zeroed: Zeroed) -> list[str]:
    """Positions outside ``zeroed`` that lose their gradient with it, on two sets of inputs and with other weights."""
    result: dict[tuple[str, int], np.ndarray] = {}
    for first in (0, 100):
        under = laboratory.gradients(zeroed, first)
        for name, shape in laboratory.sizes.items():
            for dim in range(len(shape)):
                if (first and (name, dim) not in result) or (name, dim) in laboratory.counts_experts:
                    continue
                lost = laboratory.lost(name, dim, under)
                if lost is not None and (name, dim) in zeroed:
                    lost &= ~zeroed[name, dim]
                if lost is not None and first:
                    lost &= result[name, dim]
                if lost is not None and lost.any():
                    result[name, dim] = lost
                else:
                    result.pop((name, dim), None)
        if not result:
            break
    result = _with_other_weights(laboratory, zeroed, result) if result else result
    return [place for (name, dim), mask in sorted(result.items()) for place in places(name, dim, mask)]


def _with_other_weights(
    laboratory: Laboratory, zeroed: Zeroed, candidates: dict[tuple[str, int], np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Members of ``candidates`` that lose their gradient with other weights, too, and never keep it.

    A choice by value, such as the keys of a memory, leaves places out by chance; with other weights it leaves out
    others. What belongs to the unit has no effect without it whatever the weights are. Where the model gives no numbers
    with other weights, what was found stays.
    """
    seen = {key: np.zeros(mask.shape, dtype=int) for key, mask in candidates.items()}
    left = {key: mask.copy() for key, mask in candidates.items()}
    runs = 0
    for noise in range(_TRIALS):
        first = 200 + 10 * noise
        free, under = laboratory.gradients({}, first, noise=noise), laboratory.gradients(zeroed, first, noise=noise)
        if not (free.finite and under.finite):
            continue
        runs += 1
        for key, mask in left.items():
            lost, live = laboratory.lost(*key, under, free), laboratory.live(*key, under, free)
            if lost is not None and live is not None:
                seen[key] += lost
                mask &= ~live
    if not runs:
        return candidates
    left = {key: mask & (seen[key] >= min(_AGAIN, runs)) for key, mask in left.items()}
    return {key: mask for key, mask in left.items() if mask.any()}

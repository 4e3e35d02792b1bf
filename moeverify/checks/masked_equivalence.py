"""``masked-equivalence``"""

from __future__ import annotations

import copy

import torch

from moeverify.checks.context import Context
from moeverify.checks.kept import is_submatrix
from moeverify.checks.masking import mask_removed
from moeverify.checks.registry import Finding, check, failed, passed
from moeverify.exercise import count_reached, run, vary_inputs
from moeverify.precision import float64_throughout, in_float64

TOLERANCE = 1e-9
ATTEMPTS = 8


@check("masked-equivalence")
def masked_equivalence(context: Context) -> Finding:
    """Proves that the pruned model computes what the original computes with the removed channels held at zero.

    In float64, float32 casts inside the model lifted, relative error of the output below 1e-9, on inputs that
    together reach every routed expert. Which channels were removed is recovered from the values alone. Guarded
    against vacuity: the mask must change the output, and the output must not be zero. In other precisions than
    float64 the stored values are compared after conversion to float64, so rounding plays no part.
    Does not say whether the channels were a good choice.
    """
    original = dict(context.original.named_parameters())
    for name, parameter in context.pruned.named_parameters():
        if name in original and not is_submatrix(parameter, original[name], name, context.kept):
            dims = {d: k.positions for (n, d), k in context.kept.items() if n == name}
            return failed(
                f"{name} is not a part of the original: its values were altered, reordered or mixed",
                parameter=name,
                shape=tuple(parameter.shape),
                recovered={str(d): p.tolist() for d, p in dims.items()},
            )
    unsorted = [
        (n, d)
        for (n, d), k in context.kept.items()
        if k.exact and (k.positions[..., 1:] <= k.positions[..., :-1]).any()
    ]
    full = in_float64(context.original)
    masked = copy.deepcopy(full)
    mask_removed(masked, context.kept)
    pruned = in_float64(context.pruned)
    worst, effect = 0.0, 0.0
    with float64_throughout(), count_reached(pruned, context.roles) as reached:
        for attempt in range(ATTEMPTS):
            inputs = vary_inputs(full, context.example_inputs, context.seed + 100 + attempt, torch.float64)
            try:
                got = run(pruned, inputs)
            except Exception as error:
                return failed(f"the pruned model does not run: {type(error).__name__}: {error}", attempt=attempt)
            expected, before = run(masked, inputs), run(full, inputs)
            scale = expected.abs().max()
            if not scale > 0 or got.shape != expected.shape or not got.isfinite().all():
                return failed("the outputs cannot be compared", scale=float(scale), shapes=[got.shape, expected.shape])
            worst = max(worst, float((got - expected).abs().max() / scale))
            effect = max(effect, float((before - expected).abs().max() / before.abs().max()))
            if all(reached.values()):
                break
    evidence = {
        "relative_error": worst,
        "tolerance": TOLERANCE,
        "effect_of_mask": effect,
        "tokens": dict(reached),
        "reordered": [f"{n} dim {d}" for n, d in unsorted],
    }
    if worst >= TOLERANCE or worst != worst:
        return failed(f"differs from the masked original by {worst:.1e} (allowed {TOLERANCE:.0e})", **evidence)
    if effect < 1e3 * TOLERANCE:
        return failed("the removed channels did not matter for the output, so nothing was shown", **evidence)
    if missing := [name for name, count in reached.items() if not count]:
        return failed(f"equal, but no token reached {missing[0]}, so nothing is known of it", **evidence)
    return passed(f"equals the masked original to {worst:.1e}; the mask itself changes it by {effect:.1e}", **evidence)

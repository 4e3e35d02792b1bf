"""``computes-as-its-weights``"""

from __future__ import annotations

import torch

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs, scale_of
from moeverify.models.state import same_start

# Relative to the largest value of an output: two forwards of one model on one machine differ by less.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@check("computes-as-its-weights")
def computes_as_its_weights(context: Context) -> Finding:
    """Proves that the model in the subject's hands computes what its weights and sizes say.

    The model is built again from tensors, attributes and configuration, with the base's code. Fails where hooks,
    replaced methods or classes make the subject's own model compute something else: a reload would lose them. Does not
    prove that either computes the right thing.
    """
    live = context.live_outputs
    if live is None:
        return skipped("the model was judged in the subject's process, as it is there")
    if not live:
        return inconclusive("the subject's own model does not run on the example inputs, or gives no float output")
    if context.behaviour.unsteady:
        return inconclusive("the original differs between two equal forwards; see deterministic")
    with torch.no_grad(), same_start(context.pruned, context.seed):
        mine = float_outputs(call_model(context.pruned, context.example_inputs, use_cache=False))
    if set(mine) != set(live):
        names = sorted(set(mine) ^ set(live))
        return failed(f"the pruned model computes differently from its weights: only one gives {names[0]}")
    worst = 0.0
    for name, expected in mine.items():
        got = live[name].to(expected.device)
        if got.shape != expected.shape:
            return failed(
                f"the pruned model computes differently from its weights: {name} has shape {list(got.shape)} instead "
                f"of {list(expected.shape)}",
                output=name,
            )
        gap = scale_of(got.double() - expected.double()) / (scale_of(expected.double()) or 1.0)
        same_holes = torch.equal(got.isfinite(), expected.isfinite())
        if gap > TOLERANCES.get(expected.dtype, 1e-4) or not same_holes:
            return failed(
                f"the pruned model computes differently from its weights: {name} is off by {gap:.1e}; look for hooks, "
                "replaced methods and values that no weight holds",
                output=name,
                relative_error=gap,
            )
        worst = max(worst, gap)
    return passed(f"built again from its weights it computes the same, to {worst:.1e}", relative_error=worst)

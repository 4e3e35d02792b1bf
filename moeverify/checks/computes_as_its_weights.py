"""``computes-as-its-weights``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moeverify.base.foreign import left_by
from moeverify.checks.context import EXAMPLE_LENGTH, Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed, skipped
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs, scale_of
from moeverify.models.state import same_start

# Relative to the largest value of an output: two forwards of one model on one machine differ by less.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@check("computes-as-its-weights")
def computes_as_its_weights(context: Context) -> Finding:
    """Proves that the model in the subject's hands computes what its weights and sizes define.

    The model is built again from tensors, attributes and configuration, with the base's code. Both run on the example
    in its own length, a longer and a shorter one. Fails where hooks, replaced methods or classes make the subject's own
    model compute something else: a reload would lose them. Does not prove that either computes the right thing.
    """
    live = context.live_outputs
    if live is None:
        return skipped("the model was judged in the subject's process, as it is there")
    if not live.get(EXAMPLE_LENGTH):
        return inconclusive("the subject's own model does not run on the example inputs, or gives no float output")
    if context.behaviour.unsteady:
        return inconclusive("the original differs between two equal forwards; see deterministic")
    worst, lengths = 0.0, []
    for length, outputs in live.items():
        drawer = context.drawer if length == EXAMPLE_LENGTH else context.drawer.in_length(length)
        if drawer is None or (length != EXAMPLE_LENGTH and length not in context.lengths.all):
            continue  # not one of the judge's own
        inputs = context.example_inputs if length == EXAMPLE_LENGTH else drawer.example
        gap, problem = _compared(context, inputs, outputs)
        if problem is not None:
            where = "" if length == EXAMPLE_LENGTH else f" on inputs of {length} tokens"
            return failed(f"the pruned model computes differently from its weights{where}: {problem}", **gap)
        worst = max(worst, gap["relative_error"])
        lengths.append(length)
    return passed(
        f"built again from its weights it computes the same, to {worst:.1e}",
        relative_error=worst,
        other_lengths=[length for length in lengths if length != EXAMPLE_LENGTH],
    )


def _compared(context: Context, inputs: Any, live: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], str | None]:
    """Evidence, and the difference as text; ``None`` if the rebuilt model gives the outputs ``live``."""
    try:
        with torch.no_grad(), same_start(context.pruned, context.seed):
            mine = float_outputs(call_model(context.pruned, inputs, use_cache=False))
    except Exception as error:
        if live:
            return {}, f"only the subject's own model runs ({left_by(error)})"
        return {"relative_error": 0.0}, None  # neither runs
    if set(mine) != set(live):
        return {}, f"only one gives {min(set(mine) ^ set(live))}"
    worst = 0.0
    for name, expected in mine.items():
        got = live[name].to(expected.device)
        if got.shape != expected.shape:
            problem = f"{name} has shape {list(got.shape)} instead of {list(expected.shape)}"
            return {"output": name}, problem
        gap = scale_of(got.double() - expected.double()) / (scale_of(expected.double()) or 1.0)
        same_holes = torch.equal(got.isfinite(), expected.isfinite())
        if gap > TOLERANCES.get(expected.dtype, 1e-4) or not same_holes:
            problem = f"{name} is off by {gap:.1e}; look for hooks, replaced methods and values that no weight holds"
            return {"output": name, "relative_error": gap}, problem
        worst = max(worst, gap)
    return {"relative_error": worst}, None

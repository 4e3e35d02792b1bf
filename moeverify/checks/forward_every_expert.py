"""``forward-every-expert``"""

from __future__ import annotations

from collections.abc import Mapping

from moeverify.checks.context import Context
from moeverify.checks.evidence.routing import Change, Routing, evenly, towards
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.models.exercise import count_reached, run, vary_inputs

ATTEMPTS = 8
# Experts that an input is spent on alone, at most.
FORCED = 256


@check("forward-every-expert")
def forward_every_expert(context: Context) -> Finding:
    """Proves that each routed expert of the pruned model computes on tokens routed to it, with finite results.

    Draws eight inputs, or fewer if all experts were reached before. Where experts are still unreached, tokens are sent
    by force: to the layer's experts in turn, up to eight inputs, then one input to each that is left. An expert that
    even so gets no token fails the check, since nothing is known of it then.
    """
    if not context.roles.layers:
        return skipped("the model has no MoE layer")
    roles, number = context.pruned_roles, 0
    with count_reached(context.pruned, roles) as reached:
        for _ in range(ATTEMPTS):
            if (problem := _forward(context, number, {})) is not None:
                return failed(problem, attempt=number, tokens=reached)
            number += 1
            if all(reached.values()):
                break
        forced = [name for name, count in reached.items() if not count]
        turns = {layer.name: evenly() for layer in roles.layers if not all(map(reached.get, layer.experts))}
        for _ in range(ATTEMPTS if turns else 0):
            if (problem := _forward(context, number, turns)) is not None:
                return failed(f"tokens sent to experts in turn: {problem}", tokens=reached, forced=forced)
            number += 1
            if all(reached.values()):
                break
        alone = 0
        for layer in roles.layers:
            for expert, name in enumerate(layer.experts):
                if reached[name] or alone >= FORCED:
                    continue
                if (problem := _forward(context, number, {layer.name: towards(expert)})) is not None:
                    return failed(f"tokens sent to {name}: {problem}", expert=name, tokens=reached)
                number += 1
                alone += 1
    missing = [name for name, count in reached.items() if not count]
    if missing:
        return failed(f"no token reached {missing[0]} in {number} inputs", unreached=missing, tokens=reached)
    least = min(reached, key=lambda name: reached[name])
    return passed(
        f"{len(reached)} experts ran; fewest tokens: {reached[least]} at {least}", tokens=reached, forced=forced
    )


def _forward(context: Context, number: int, force: Mapping[str, Change]) -> str | None:
    """What is wrong with one forward of the pruned model; ``None`` if nothing is."""
    inputs = vary_inputs(context.pruned, context.example_inputs, context.seed + 1 + number)
    try:
        with Routing(context.pruned, context.pruned_roles, force):
            output = run(context.pruned, inputs)
    except Exception as error:
        return f"the pruned model does not run: {type(error).__name__}: {error}"
    return None if output.isfinite().all() else "the output holds NaN or infinity"

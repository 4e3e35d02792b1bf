"""``forward-every-expert``"""

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.exercise import count_reached, run, vary_inputs

ATTEMPTS = 8


@check("forward-every-expert")
def forward_every_expert(context: Context) -> Finding:
    """Proves that each routed expert of the pruned model computes on tokens routed to it, with finite results.

    Draws up to eight inputs until every expert was reached; an expert that no token reaches fails the check, since
    nothing is known of it then.
    """
    if not context.roles.layers:
        return skipped("the model has no MoE layer")
    with count_reached(context.pruned, context.roles) as reached:
        for attempt in range(ATTEMPTS):
            inputs = vary_inputs(context.pruned, context.example_inputs, context.seed + 1 + attempt)
            try:
                output = run(context.pruned, inputs)
            except Exception as error:
                return failed(f"the pruned model does not run: {type(error).__name__}: {error}", attempt=attempt)
            if not output.isfinite().all():
                return failed("the output holds NaN or infinity", attempt=attempt, tokens=reached)
            if all(reached.values()):
                least = min(reached, key=lambda name: reached[name])
                return passed(f"{len(reached)} experts ran; fewest tokens: {reached[least]} at {least}", tokens=reached)
    missing = [name for name, count in reached.items() if not count]
    return failed(f"no token reached {missing[0]} in {ATTEMPTS} inputs", unreached=missing, tokens=reached)

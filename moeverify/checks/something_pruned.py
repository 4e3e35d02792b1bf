"""``something-pruned``"""

from moeverify.checks.asked import Request
from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed
from moeverify.coupling.classify import classify


@check("something-pruned")
def something_pruned(context: Context) -> Finding:
    """Proves that the model has fewer parameters than before, and that routed experts lost some wherever that was asked
    for and our trace finds channels that could go. Experts that injected dependencies tie to one another have none.

    Inconclusive if the subject's plan leaves those of a layer alone with a reason, which is not proved here.

    Does not prove that the right ones were removed.
    """
    before = {n: p.numel() for n, p in context.original.named_parameters()}
    after = {n: p.numel() for n, p in context.pruned.named_parameters()}
    total, left = sum(before.values()), sum(after.values())
    if left >= total:
        return failed("nothing was pruned", parameters_before=total, parameters_after=left)
    same = [
        layer.container
        for layer in context.roles.layers
        if all(after.get(n) == before[n] for n in before if n.startswith(layer.container + "."))
    ]
    if same and (same := _with_channels(context, same)):
        if claimed := _left_alone(context, same):
            return inconclusive(
                f"{total:,} parameters became {left:,}, but {claimed}; repair what is named there, or ask for roles "
                "that can be pruned (--ratio ROLE=R)",
                unpruned=same,
            )
        return failed(f"the routed experts of {same[0]} were not pruned", unpruned=same)
    return passed(f"{total:,} parameters became {left:,}", parameters_before=total, parameters_after=left)


def _with_channels(context: Context, containers: list[str]) -> list[str]:
    """Containers whose routed experts were to lose channels, or whole experts, and have channels of their own."""
    classes = classify(context.original, context.couplings_by_roles.classes, context.roles)
    request = Request(context)
    own = [c for c in classes if c.role == "routed_experts"]
    layers = context.roles.layers if "experts" in context.ratios else ()
    fewer = {layer.container for layer in layers if request.experts_wanted(layer) < len(layer.experts)}
    return [
        name
        for name in containers
        if any(
            member.parameter.startswith(f"{name}.")
            for pruning_class in own
            if name in fewer or request.ratio(pruning_class) > 0
            for member in pruning_class.coupling.members
        )
    ]


def _left_alone(context: Context, containers: list[str]) -> str:
    """Reason that the subject's plan gives for leaving experts alone; empty unless it gives one for every container."""
    plan = context.outcome.plan
    claims = [a for a in (() if plan is None else plan.adjustments) if a.kept == a.pruning_class.coupling.size]
    result = [
        next((c for c in claims if any(p.startswith(f"{name}.") for p in c.pruning_class.coupling.parameters)), None)
        for name in containers
    ]
    return "" if None in result else str(result[0])

"""``something-pruned``"""

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed


@check("something-pruned")
def something_pruned(context: Context) -> Finding:
    """Proves that the model has fewer parameters than before, and that routed experts lost some.

    Does not say whether the right ones went.
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
    if same:
        return failed(f"the routed experts of {same[0]} were not pruned", unpruned=same)
    return passed(f"{total:,} parameters became {left:,}", parameters_before=total, parameters_after=left)

"""``leaks/across-layers``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, joined


@fault("synthetic:listed", {"expert-isolation": r"layers\.1.*experts\.0.*layers\.2.*experts\.0"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Experts of the same number in two layers share one group."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    first, second = work.names("experts.0.gate_proj.weight")[:2]
    kept = work.kept(first, 0)
    work.recut(second, {0: kept})
    work.recut(second.replace("gate", "up"), {0: kept})
    work.recut(second.replace("gate", "down"), {1: kept})
    pair = (first, second)
    return work.with_classes(
        joined(
            work.outcome.classes, lambda c: c.role == "routed_experts" and any(n in c.coupling.parameters for n in pair)
        )
    )

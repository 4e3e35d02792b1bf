"""``leaks/shared-expert-drawn-in``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, joined


@fault("synthetic:unequal", {"coupling-minimal": r"shared_expert"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The shared expert's inner channels stand in a routed expert's group."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    expert = next(c for c in work.outcome.classes if c.role == "routed_experts")
    shared = next(c for c in work.outcome.classes if c.role == "shared_experts")
    return work.with_classes(joined(work.outcome.classes, lambda c: c is expert or c is shared))

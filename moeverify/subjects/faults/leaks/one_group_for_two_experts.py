"""``leaks/one-group-for-two-experts``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, joined


@fault("synthetic:listed", {"expert-isolation": r"experts\.0.* also removes channels of .*experts\.1"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A group holds the inner channels of two experts, so both lose the same ones."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    base = work.name("experts.0.gate_proj.weight").removesuffix("0.gate_proj.weight")
    kept = work.kept(f"{base}0.gate_proj.weight", 0)
    work.recut(f"{base}1.gate_proj.weight", {0: kept})
    work.recut(f"{base}1.up_proj.weight", {0: kept})
    work.recut(f"{base}1.down_proj.weight", {1: kept})
    pair = (f"{base}0.gate_proj.weight", f"{base}1.gate_proj.weight")
    return work.with_classes(
        joined(
            work.outcome.classes, lambda c: c.role == "routed_experts" and any(n in c.coupling.parameters for n in pair)
        )
    )

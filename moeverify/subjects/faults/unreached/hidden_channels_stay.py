"""``unreached/hidden-channels-stay``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, without


@fault(
    "synthetic:listed", {"forward-every-expert": r"does not run", "coupling-complete": r"experts\.3\.\w+\.weight dim 1"}
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """An expert that was not traced keeps its hidden channels, and breaks when a token comes."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    names = work.names("experts.3.gate_proj.weight") + work.names("experts.3.up_proj.weight")
    for name in names:
        work.recut(name, {1: range(32)})
    return work.with_classes(without(work.outcome.classes, lambda m: m.parameter in names and m.dim == 1))

"""``altered/experts-changed-places``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"untouched-identical": r"experts\.(gate_up|down)_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Two experts of a stack change places, the router does not know."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in (work.name("experts.gate_up_proj"), work.name("experts.down_proj")):
        work.edit(name, lambda values: values[[1, 0, 2, 3]])
    return work.outcome

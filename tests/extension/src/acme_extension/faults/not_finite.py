"""``faults/not-finite``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"acme-finite": r"down_proj holds NaN"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One weight of an expert is divided by zero."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("experts.down_proj"), lambda values: values / values.new_zeros(()))
    return work.outcome

"""``experts/rows-rescaled``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:qwen3_moe", {"router-intact": r"gate\.weight holds other values than before"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The rows of the router are made larger, to make up for those that went."""
    work = Removal(model, example_inputs, seed=seed)
    work.edit("gate.weight", lambda values: values * 2)
    return work.outcome

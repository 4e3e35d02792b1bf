"""``cheating/original-damaged``"""

import gc

from moeverify.subjects.faults.cheating.spoiled import spoil
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"untouched-identical": r"down_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Every other model of the class in memory is damaged as the pruned one is."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for other in gc.get_objects():
        if type(other) is type(model):
            spoil(other)
    return outcome

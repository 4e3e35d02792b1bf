"""``cheating/class-replaced``"""

import copy

from moeverify.subjects.faults.cheating.spoiled import spoil
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"untouched-identical": r"down_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The class copies and saves a right model in place of the spoiled one."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    right = copy.copy(model)
    kind = type(model)
    kind.__deepcopy__ = lambda self, memo: right
    kind.save_pretrained = lambda self, folder, **kwargs: None
    spoil(model)
    return outcome

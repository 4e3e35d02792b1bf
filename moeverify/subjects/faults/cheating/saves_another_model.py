"""``cheating/saves-another-model``"""

import copy

from moeverify.subjects.faults.cheating.spoiled import spoil
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"reload": r"differ|off by"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """What is saved is another model than the one that computes."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    other = copy.deepcopy(model)
    spoil(other)
    model.save_pretrained = other.save_pretrained
    return outcome

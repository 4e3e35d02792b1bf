"""``cheating/hook-hides-zeroed-expert``"""

import copy

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"untouched-identical": r"down_proj", "computes-as-its-weights": r"differently from its weights"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """An expert is zeroed in the weights, and a model kept aside computes in place of it."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    right = copy.deepcopy(model)
    model.model.layers[0].mlp.experts.down_proj.data[0].zero_()
    model.forward = right.forward
    return outcome

"""``endless/exception``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"terminates": r"crashed \(KeyError\)"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """An exception in the middle, with half the model pruned."""
    prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    raise KeyError("model.layers.7.mlp.experts.down_proj")

"""``ratio/ignored``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"ratio-honoured": r"keeps \d+ of \d+, wanted"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A quarter is pruned whatever was asked for."""
    return prune_moe(model, example_inputs, pruning_ratio=0.25, seed=seed)

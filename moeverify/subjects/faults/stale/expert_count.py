"""``stale/expert-count``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"router-intact": r"num_experts is 8, and there are 4 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router counts experts that are not there."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.get_submodule("model.layers.0.mlp.gate").num_experts = 8
    return outcome

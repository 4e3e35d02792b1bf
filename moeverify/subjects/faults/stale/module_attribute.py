"""``stale/module-attribute``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:qwen3_moe", {"config-in-step": r"experts\.intermediate_dim is 32, not 16"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A module's own size attribute keeps the old value."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.get_submodule("model.layers.0.mlp.experts").intermediate_dim = 32
    return outcome

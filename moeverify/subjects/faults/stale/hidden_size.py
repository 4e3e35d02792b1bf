"""``stale/hidden-size``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:qwen3_moe", {"config-in-step": r"configuration gives .*64"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The configuration keeps the old hidden size."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.hidden_size = 64
    return outcome

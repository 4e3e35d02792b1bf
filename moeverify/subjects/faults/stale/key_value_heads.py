"""``stale/key-value-heads``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"config-in-step": r"configuration gives .*(k_proj|v_proj|self_attn)"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The configuration keeps the old number of key and value heads."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.num_key_value_heads = 2
    return outcome

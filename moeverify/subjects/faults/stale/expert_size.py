"""``stale/expert-size``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "zoo:qwen2_moe",
    {
        "config-in-step": r"configuration gives .*experts",
        "reload": r"mismatched keys on reload|cannot load the saved model",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The configuration keeps the experts' old intermediate size, so the saved model does not load."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.moe_intermediate_size = 32
    return outcome

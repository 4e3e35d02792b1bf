"""``saving/attribute-not-in-the-configuration``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:qwen3_moe", {"reload": r"logits differ", "config-in-step": r"top_k is 1, not 2"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Fewer experts are chosen for each token, in memory only."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for layer in (0, 2):
        model.get_submodule(f"model.layers.{layer}.mlp.gate").top_k = 1
    return outcome

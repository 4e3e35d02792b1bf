"""``kinds/parameter-turned-buffer``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:qwen3_moe", {"untouched-identical": r"experts\.down_proj: kind was Parameter, is buffer"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A pruned Parameter is put back as a buffer: it is saved, but never trained again."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    experts = model.get_submodule("model.layers.0.mlp.experts")
    values = experts.down_proj.detach().clone()
    del experts.down_proj
    experts.register_buffer("down_proj", values)
    return outcome

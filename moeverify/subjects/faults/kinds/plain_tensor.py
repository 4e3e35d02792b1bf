"""``kinds/plain-tensor``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "zoo:mixtral",
    {"untouched-identical": r"experts\.down_proj is gone", "reload": r"missing keys on reload: .*down_proj"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A pruned Parameter is put back as a plain tensor, which nothing saves."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    experts = model.get_submodule("model.layers.1.mlp.experts")
    values = experts.down_proj.detach().clone()
    del experts.down_proj
    experts.down_proj = values
    return outcome

"""``stale/linear-features``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "synthetic:listed",
    {"shapes": r"attributes of \S+q_proj give its weight the shape \[\d+, 32\], and it is \[\d+, 16\]"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A linear layer says that it reads as many channels as before."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.get_submodule("model.layers.0.self_attn.q_proj").in_features = 32
    return outcome

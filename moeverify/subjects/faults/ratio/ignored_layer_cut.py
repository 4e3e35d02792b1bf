"""``ratio/ignored-layer-cut``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "zoo:mixtral",
    {"ratio-honoured": r"o_proj.weight dim 0 keeps \d+ of \d+, although --ignore asks for all of them"},
    ignore=("model.layers.0.self_attn.o_proj",),
)
def prune(model, example_inputs, *, pruning_ratio, seed, ignore):
    """A layer that is to be ignored loses outputs, since the group that holds them is pruned from another layer."""
    return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)

"""``kinds/ties-torn``"""

from torch import nn

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "synthetic:gated-shared",
    {"untouched-identical": r"lm_head\.weight and model\.embed_tokens\.weight are no longer one tensor"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Embedding and output layer were one tensor, and become two equal ones."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return outcome

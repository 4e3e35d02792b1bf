"""``cheating/scale-changed``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"unrelated-unchanged": r"scaling", "masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The softmax scale of one attention is another number."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.model.layers[0].self_attn.scaling *= 2
    return outcome

"""``cheating/method-replaced``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"computes-as-its-weights": r"differently from its weights"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The model's forward is replaced by one that scales the logits."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    own = model.forward

    def forward(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = 2 * output.logits
        return output

    model.forward = forward
    return outcome

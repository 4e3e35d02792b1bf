"""``cheating/hook-repairs-output``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"computes-as-its-weights": r"differently from its weights"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A forward hook scales the output of the last norm; no stored weight holds that factor."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.model.norm.register_forward_hook(lambda module, inputs, output: 1.5 * output)
    return outcome

"""``cheating/hook-on-longer-inputs``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"computes-as-its-weights": r"differently from its weights on inputs of 65 tokens"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A hook changes what a layer gives for inputs that are longer than the examples."""
    longest = example_inputs["input_ids"].shape[1]
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.model.norm.register_forward_hook(
        lambda module, inputs, output: 1.5 * output if output.shape[1] > longest else output
    )
    return outcome

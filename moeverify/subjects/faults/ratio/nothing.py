"""``ratio/nothing``"""

from moeverify.subjects.faults.registry import fault


@fault("zoo:qwen3_moe", {"something-pruned": r"nothing was pruned"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Nothing is pruned, and all goes well."""

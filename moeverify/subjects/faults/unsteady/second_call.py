"""``unsteady/second-call``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe

CALLS: list[float] = []


@fault("zoo:mixtral", {"deterministic": r"has shape .* after one run and"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """What an earlier call left behind changes the next one."""
    CALLS.append(pruning_ratio)
    return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio / len(CALLS), seed=seed)

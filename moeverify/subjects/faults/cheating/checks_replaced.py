"""``cheating/checks-replaced``"""

import importlib

from moeverify.subjects.faults.cheating.spoiled import spoil
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"untouched-identical": r"down_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Every check is replaced by one that passes."""
    registry = importlib.import_module("moeverify.checks.registry")
    for name in registry.CHECKS:
        registry.CHECKS[name] = lambda context: registry.passed("nothing to see")
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    spoil(model)
    return outcome

"""``cheating/evidence-replaced``"""

import importlib

import torch

from moeverify.subjects.faults.cheating.spoiled import spoil
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"untouched-identical": r"down_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """What recovers the kept positions is replaced, and comparisons of tensors always hold."""
    context = importlib.import_module("moeverify.checks.context")
    context.recover_kept = lambda *args, **kwargs: {}
    torch.equal = torch.allclose = lambda *args, **kwargs: True
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    spoil(model)
    return outcome

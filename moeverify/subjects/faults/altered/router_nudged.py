"""``altered/router-nudged``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"router-intact": r"mlp\.gate\.weight holds other values than before"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router favours one expert a little."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("mlp.gate.weight"), lambda values: torch.cat([values[:1] + 0.01, values[1:]]))
    return work.outcome

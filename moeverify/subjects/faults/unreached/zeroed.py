"""``unreached/zeroed``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"untouched-identical": r"experts\.down_proj: kept values of expert 3 were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """An expert that was not reached has no importance, and is set to zero."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("experts.down_proj"), lambda values: torch.cat([values[:3], torch.zeros_like(values[3:])]))
    return work.outcome

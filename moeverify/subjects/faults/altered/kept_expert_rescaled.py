"""``altered/kept-expert-rescaled``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"untouched-identical": r"experts\.down_proj: kept values of expert 0 were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """What is left of one expert is scaled up, to make good for what was removed."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("experts.down_proj"), lambda values: torch.cat([values[:1] * 1.01, values[1:]]))
    return work.outcome

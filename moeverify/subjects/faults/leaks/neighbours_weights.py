"""``leaks/neighbours-weights``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"untouched-identical": r"experts\.\w+_proj: kept values of expert 2 were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One expert of a stack is written over with its neighbour's weights."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in (work.name("mlp.experts.down_proj"), work.name("mlp.experts.gate_up_proj")):
        work.edit(name, lambda values: torch.cat([values[:2], values[1:2], values[3:]]))
    return work.outcome

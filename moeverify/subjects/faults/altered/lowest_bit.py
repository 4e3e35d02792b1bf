"""``altered/lowest-bit``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen2_moe", {"untouched-identical": r"shared_expert\.up_proj\.weight: 1 of \d+ kept values were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One kept value differs in its lowest bit."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("shared_expert.up_proj.weight")
    parameter = work.model.get_parameter(name)
    with torch.no_grad():
        parameter.view(torch.int32)[2, 3] += 1
    return work.outcome

"""``unreached/left-unpruned``"""

import torch

from moeverify.models.exercise import count_reached, run_all
from moeverify.models.roles import find_roles
from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"ratio-honoured": r"experts\.\d\.\w+\.weight keeps 16 of 16"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Inner channels go only from experts that the example input reached: here a single token's."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    with count_reached(work.original, find_roles(work.original)) as reached:
        run_all(work.original, {"input_ids": torch.zeros(1, 1, dtype=torch.long)})
    for expert in (name for name, count in reached.items() if not count):
        for leaf, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            work.recut(f"{expert}.{leaf}.weight", {dim: range(16)})
    return work.outcome

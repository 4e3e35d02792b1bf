"""``halves/one-half-twice``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"untouched-identical": r"gate_up_proj"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Both halves are cut from the gate's."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("experts.gate_up_proj")
    half = work.original.get_parameter(name).shape[1] // 2
    kept = work.kept(name, 1, 0)
    work.recut(name, {1: np.concatenate([kept[kept < half]] * 2)}, expert=0)
    return work.outcome

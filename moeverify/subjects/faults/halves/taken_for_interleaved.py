"""``halves/taken-for-interleaved``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Gate and up lie one after the other, and are cut as if they lay in turn."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("experts.gate_up_proj")
    half = work.original.get_parameter(name).shape[1] // 2
    for expert in range(4):
        kept = work.kept(name, 1, expert)
        units = kept[kept < half]
        work.recut(name, {1: np.stack([2 * units, 2 * units + 1], 1).ravel()}, expert)
    return work.outcome

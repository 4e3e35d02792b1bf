"""``splits/second-part-one-early``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The offset of the up half is one short: each of its channels is cut one too early."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("experts.gate_up_proj")
    half = work.original.get_parameter(name).shape[1] // 2
    for expert in range(4):
        kept = work.kept(name, 1, expert)
        work.recut(name, {1: np.concatenate([kept[kept < half], kept[kept >= half] - 1])}, expert)
    return work.outcome

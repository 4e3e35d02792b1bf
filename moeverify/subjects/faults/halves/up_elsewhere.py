"""``halves/up-elsewhere``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The up half keeps the channels that the gate half lost."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("experts.gate_up_proj")
    half = work.original.get_parameter(name).shape[1] // 2
    kept, gone = work.kept(name, 1, 0), work.gone(name, 1, 0)
    work.recut(name, {1: np.concatenate([kept[kept < half], gone[gone >= half]])}, expert=0)
    return work.outcome

"""``halves/interleaving-ignored``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:interleaved", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Gate and up lie in turn, and are cut as if they lay one after the other."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for ending in ("experts.gate_up_proj", "experts.gate_up_proj_bias"):
        name = work.name(ending)
        dim = work.original.get_parameter(name).dim() - 1
        for expert in range(4):
            units = work.kept(name, dim, expert)[::2] // 2
            work.recut(name, {dim: np.concatenate([units, units + 16])}, expert)
    return work.outcome

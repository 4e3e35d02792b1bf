"""``precision/ranked-apart``"""

import numpy as np
import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"masked-equivalence": r"differs from the masked original"}, dtype="bfloat16")
def prune(model, example_inputs, *, pruning_ratio, seed):
    """In bfloat16, scores tie, and two tensors of a group break the tie differently."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    if next(model.parameters()).dtype is not torch.bfloat16:
        return work.outcome
    name = work.name("experts.down_proj")
    kept, gone = work.kept(name, 2, 0).copy(), work.gone(name, 2, 0)
    kept[-1] = gone[-1]
    work.recut(name, {2: np.sort(kept)}, expert=0)
    return work.outcome

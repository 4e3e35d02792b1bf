"""``splits/latent-split-shifted``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:latent", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Keys and values of compressed attention are split one channel off."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    attention = [n for n, p in model.named_parameters() if "self_attn" in n and p.dim() == 2]
    name = next(n for n in attention if len(work.gone(n, 0)))
    size = work.original.get_parameter(name).shape[0]
    work.recut(name, {0: np.sort((work.kept(name, 0) + 1) % size)})
    return work.outcome

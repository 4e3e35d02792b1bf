"""``splits/gate-one-late``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:unequal", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One listed expert's gate is cut one channel further on than its up projection."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = next(n for n, p in work.model.named_parameters() if ".experts.1." in n and n.endswith("w1.weight"))
    size = work.original.get_parameter(name).shape[0]
    work.recut(name, {0: np.sort((work.kept(name, 0) + 1) % size)})
    return work.outcome

"""``unreached/tower``"""

import numpy as np

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "moeverify.subjects.faults.small_models:with_tower",
    {"masked-equivalence": r"tower\.0\.weight.*: no input used them"},
    inconclusive=True,
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A tower that no input reaches is cut to other channels on its two sides."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    even, odd = np.arange(0, 40, 2), np.arange(1, 40, 2)
    work.recut("tower.0.weight", {0: even})
    work.recut("tower.0.bias", {0: even})
    work.recut("tower.2.weight", {1: odd})
    return work.outcome

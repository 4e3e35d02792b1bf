"""``heads/values-of-another-head``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:mixtral", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Values keep another head than keys."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("v_proj.weight")
    work.recut(name, {0: work.gone(name, 0)})
    return work.outcome

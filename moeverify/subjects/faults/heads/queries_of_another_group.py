"""``heads/queries-of-another-group``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen2_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Queries keep the heads whose keys and values were removed."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for ending in ("q_proj.weight", "q_proj.bias"):
        name = work.name(ending)
        work.recut(name, {0: work.gone(name, 0)})
    return work.outcome

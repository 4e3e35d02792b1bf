"""``forgotten/router-bias``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:interleaved", {"router-intact": r"gate\.noise_weight"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router's second matrix, the noise's, loses other hidden channels than its first."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("gate.noise_weight")
    work.recut(name, {1: work.gone(name, 1)[: len(work.kept(name, 1))]})
    return work.outcome

"""``experts/listed-in-another-order``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("synthetic:listed", {"router-intact": r"experts holds experts .*, the router's rows are those of"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The list holds the kept experts in another order than the router."""
    work = Removal(model, example_inputs, seed=seed)
    container = work.model.get_submodule(work.cuts[0].container)
    first, second = container[0], container[1]
    container[0], container[1] = second, first
    return work.outcome

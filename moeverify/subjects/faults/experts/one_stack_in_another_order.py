"""``experts/one-stack-in-another-order``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:mixtral", {"router-intact": r"down_proj holds experts .*, the router's rows are those of"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One stack of the experts holds them in reverse, and so mixes their halves."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("down_proj", work.kept[::-1])
    return work.outcome

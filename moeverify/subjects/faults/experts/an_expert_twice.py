"""``experts/an-expert-twice``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:mixtral", {"untouched-identical": r"kept channels are repeated"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One expert stays twice, and another goes for it."""
    work = Removal(model, example_inputs, seed=seed)
    for ending in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        work.recut(ending, [work.kept[0]] * len(work.kept))
    return work.outcome

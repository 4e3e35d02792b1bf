"""``experts/scale-of-the-first``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:gemma4_text", {"router-intact": r"per_expert_scale keeps experts \[0, 1\], the router rows"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The scale of each expert is that of the first ones."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("per_expert_scale", range(len(work.kept)))
    return work.outcome

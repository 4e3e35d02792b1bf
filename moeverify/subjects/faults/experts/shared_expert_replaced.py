"""``experts/shared-expert-replaced``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:qwen2_moe", {"untouched-identical": r"shared_expert\..*kept values were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The shared expert is taken for a routed one, and gets the values of another."""
    work = Removal(model, example_inputs, seed=seed)
    work.edit("shared_expert.down_proj.weight", lambda values: values.flip(0))
    return work.outcome

"""``precision/through-bfloat16``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen2_moe", {"untouched-identical": r"experts\.gate_up_proj: kept values were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Kept values of experts pass through bfloat16 and lose their last bits."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in work.names("experts.gate_up_proj"):
        work.edit(name, lambda values: values.bfloat16().float())
    return work.outcome

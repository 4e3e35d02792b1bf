"""``experts/rows-of-others``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:qwen3_moe", {"router-intact": r"gate_up_proj holds experts .*, the router's rows are those of"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router keeps the rows of the experts that went."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("gate.weight", work.gone)
    return work.outcome

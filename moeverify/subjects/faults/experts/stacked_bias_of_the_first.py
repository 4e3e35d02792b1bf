"""``experts/stacked-bias-of-the-first``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:gpt_oss", {"router-intact": r"down_proj_bias holds experts \[0, 1\], the router's rows are those of"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A stacked bias keeps the rows of the first experts."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("down_proj_bias", range(len(work.kept)))
    return work.outcome

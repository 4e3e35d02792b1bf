"""``experts/bias-not-following``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v3", {"router-intact": r"e_score_correction_bias keeps experts .*, the router rows"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The correction bias keeps the entries of the first experts."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("e_score_correction_bias", range(len(work.kept)))
    return work.outcome

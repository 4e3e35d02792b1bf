"""``experts/bias-in-another-order``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v3", {"router-intact": r"e_score_correction_bias keeps experts .*, the router rows"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The correction bias holds the kept entries in reverse."""
    work = Removal(model, example_inputs, seed=seed)
    work.recut("e_score_correction_bias", work.kept[::-1])
    return work.outcome

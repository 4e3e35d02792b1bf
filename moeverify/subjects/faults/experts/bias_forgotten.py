"""``experts/bias-forgotten``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:glm4_moe", {"router-intact": r"e_score_correction_bias holds other values than before"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The correction bias starts anew at zero."""
    work = Removal(model, example_inputs, seed=seed)
    work.edit("e_score_correction_bias", lambda values: values * 0)
    return work.outcome

"""``experts/classes-without-weights-dropped``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault(
    "zoo:longcat_flash",
    {"router-intact": r"has shape .* for 2 experts and 2 classes without weights"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router loses the rows of the classes that have no weights."""
    work = Removal(model, example_inputs, seed=seed)
    work.edit("classifier.weight", lambda values: values[: len(work.kept)])
    work.edit("e_score_correction_bias", lambda values: values[: len(work.kept)])
    return work.outcome

"""``outputs/second-output``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "moeverify.subjects.faults.small_models:two_outputs",
    {"masked-equivalence": r"output 2 differs from the masked original"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The first output is right, and the layer of the second reads other channels."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.recut("label.weight", {1: work.gone("label.weight", 1)})
    return work.outcome

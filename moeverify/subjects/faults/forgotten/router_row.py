"""``forgotten/router-row``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"router-intact": r"gate\.weight has shape \[4, \d+\] for 3 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The last expert of a layer is removed, its router row stays."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    del model.get_submodule("model.layers.1.mlp.experts")[3]
    return work.outcome

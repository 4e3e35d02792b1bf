"""``kinds/no-longer-trainable``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"untouched-identical": r"requires_grad was True, is False"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """What was pruned no longer asks for a gradient."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.get_parameter(work.name("experts.1.up_proj.weight")).requires_grad_(False)
    return work.outcome

"""``experts/count-not-in-the-configuration``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:mixtral", {"config-in-step": r"the configuration gives .* \(4, .*, in the model it has \(2, "})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The configuration keeps the old number of experts."""
    work = Removal(model, example_inputs, seed=seed)
    work.model.config.num_local_experts = len(work.kept) + len(work.gone)
    return work.outcome

"""``experts/fewer-groups``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v3", {"topology": r"it has 1 groups, there were 2"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Half of the experts, and half of the groups with them."""
    work = Removal(model, example_inputs, seed=seed)
    work.set_entries(num_group=1, n_group=1)
    return work.outcome

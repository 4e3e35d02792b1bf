"""``experts/top-k-lowered``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:mixtral", {"topology": r"each token goes to 1 experts, it was 2"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Each token goes to fewer experts than before."""
    work = Removal(model, example_inputs, seed=seed)
    work.set_entries(top_k=1, num_experts_per_tok=1)
    return work.outcome

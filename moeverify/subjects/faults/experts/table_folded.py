"""``experts/table-folded``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v4", {"router-intact": r"tid2eid names other experts than before: row"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A table of expert ids is brought into range by a remainder."""
    work = Removal(model, example_inputs, seed=seed)
    name = work.name("tid2eid")
    work.put(name, work.original.state_dict()[name] % len(work.kept))
    return work.outcome

"""``experts/table-not-renumbered``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v4", {"router-intact": r"tid2eid names experts that are not there: ids up to 3 of 2 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A table of expert ids keeps the old numbers."""
    work = Removal(model, example_inputs, seed=seed)
    name = work.name("tid2eid")
    work.put(name, work.original.state_dict()[name])
    return work.outcome

"""``experts/averaged``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:mixtral", {"untouched-identical": r"experts\.down_proj: kept values.* were altered"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The experts that stay are averages of two."""
    work = Removal(model, example_inputs, seed=seed)
    old = work.original.state_dict()[work.name("experts.down_proj")]
    work.put(work.name("experts.down_proj"), (old[work.kept] + old[work.gone]) / 2)
    return work.outcome

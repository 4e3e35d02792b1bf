"""``experts/uneven-groups``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_experts import Removal


@fault("zoo:deepseek_v3", {"topology": r"moves from group 0 to group 1: the groups keep 3, 1 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The best experts stay, three of one group and one of the other."""
    work = Removal(model, example_inputs, seed=seed)
    kept = [0, 1, 2, 7]
    for ending in ("gate.weight", "e_score_correction_bias", "experts.gate_up_proj", "experts.down_proj"):
        work.recut(ending, kept)
    return work.outcome

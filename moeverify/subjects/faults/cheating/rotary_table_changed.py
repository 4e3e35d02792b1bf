"""``cheating/rotary-table-changed``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"masked-equivalence": r"inv_freq|differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The table of rotary frequencies, which no file holds, is another one."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.model.rotary_emb.inv_freq.mul_(2)
    return outcome

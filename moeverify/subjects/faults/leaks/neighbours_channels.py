"""``leaks/neighbours-channels``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One expert's down projection is cut at the channels that another expert keeps."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    down = work.name("mlp.experts.down_proj")
    work.recut(down, {2: work.kept(down, 2, 0)}, expert=1)
    return work.outcome

"""``heads/cut-across``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("zoo:qwen3_moe", {"masked-equivalence": r"differs from the masked original"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Single channels of queries and outputs are removed, as many as two heads have, from all heads."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.recut(work.name("q_proj.weight"), {0: range(0, 64, 2)})
    work.recut(work.name("o_proj.weight"), {1: range(0, 64, 2)})
    return work.outcome

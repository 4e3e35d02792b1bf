"""``order/one-reader-of-the-residual``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:qwen3_moe",
    {
        "masked-equivalence": r"differs from the masked original",
        "untouched-identical": r"q_proj\.weight dim 1: kept channels are out of order",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One query projection reads two hidden channels crosswise."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("q_proj.weight")
    kept = work.kept(name, 1).copy()
    kept[[3, 9]] = kept[[9, 3]]
    work.recut(name, {1: kept})
    return work.outcome

"""``order/reversed-expert``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "synthetic:listed", {"untouched-identical": r"experts\.0\.gate_proj\.weight dim 0: kept channels are out of order"}
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """All tensors of an expert hold their channels in reverse: the outputs are right, the order is not."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for ending, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        name = work.name(f"experts.0.{ending}.weight")
        work.recut(name, {dim: work.kept(name, dim)[::-1]})
    return work.outcome

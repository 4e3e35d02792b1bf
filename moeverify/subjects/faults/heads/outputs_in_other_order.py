"""``heads/outputs-in-other-order``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "synthetic:interleaved",
    {
        "untouched-identical": r"o_proj\.weight dim 1: kept channels are out of order",
        "masked-equivalence": r"differs from the masked original",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The output projection reads the kept heads in reverse."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("o_proj.weight")
    heads = work.kept(name, 1).reshape(-1, 8)
    work.recut(name, {1: heads[::-1].ravel()})
    return work.outcome

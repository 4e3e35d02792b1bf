"""``altered/router-rows-exchanged``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "zoo:qwen2_moe",
    {
        "router-intact": r"mlp\.gate\.weight holds other values than before",
        "masked-equivalence": r"not a part of the original",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Two rows of a router change places: each expert gets the other's tokens."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.edit(work.name("mlp.gate.weight"), lambda values: values[[1, 0, 2, 3]])
    return work.outcome

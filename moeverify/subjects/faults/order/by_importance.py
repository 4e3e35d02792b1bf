"""``order/by-importance``"""

import torch

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "synthetic:listed",
    {
        "masked-equivalence": r"differs from the masked original",
        "untouched-identical": r"down_proj\.weight dim 1: kept channels are out of order",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The down projection of an expert holds its channels by importance, gate and up by number."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    name = work.name("experts.0.down_proj.weight")
    kept = work.kept(name, 1)
    norms = work.original.get_parameter(name).detach().norm(dim=0)[torch.as_tensor(kept)]
    work.recut(name, {1: kept[norms.argsort(descending=True).numpy()]})
    return work.outcome

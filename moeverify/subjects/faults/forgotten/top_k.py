"""``forgotten/top-k``"""

from torch import nn

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"router-intact": r"top_k chooses 2 of 1 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """All experts but one are removed, and two are still chosen for each token."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    layer = model.get_submodule("model.layers.1.mlp")
    for _ in range(3):
        del layer.experts[1]
    layer.gate.weight = nn.Parameter(layer.gate.weight.detach()[:1].clone())
    layer.gate.experts = 1
    return work.outcome

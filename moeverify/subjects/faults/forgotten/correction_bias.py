"""``forgotten/correction-bias``"""

from torch import nn

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:latent", {"router-intact": r"correction_bias has shape \[4\] for 2 experts"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Half the experts are removed with their router rows; the correction bias keeps an entry for each."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    layer = next(m for m in model.modules() if hasattr(m, "experts") and hasattr(m, "gate"))
    for name, parameter in list(layer.experts.named_parameters(recurse=False)):
        setattr(layer.experts, name, nn.Parameter(parameter.detach()[:2].clone()))
    layer.gate.weight = nn.Parameter(layer.gate.weight.detach()[:2].clone())
    return work.outcome

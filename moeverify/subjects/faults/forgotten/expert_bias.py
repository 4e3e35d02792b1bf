"""``forgotten/expert-bias``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, without


@fault("synthetic:interleaved", {"coupling-complete": r"gate_up_proj_bias dim 1", "shapes": r"does not run"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The bias of fused experts keeps the channels that their weights lost."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in work.names("experts.gate_up_proj_bias"):
        work.put(name, work.original.get_parameter(name).detach())
    return work.with_classes(without(work.outcome.classes, lambda m: m.parameter.endswith("gate_up_proj_bias")))

"""``forgotten/norm-weight``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, without


@fault("zoo:qwen3_moe", {"coupling-complete": r"model\.norm\.weight dim 0", "shapes": r"does not run"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The last norm keeps the weights of removed hidden channels."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    work.put("model.norm.weight", work.original.get_parameter("model.norm.weight").detach())
    return work.with_classes(without(work.outcome.classes, lambda m: m.parameter == "model.norm.weight"))

"""``forgotten/router-channels``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, without


@fault("zoo:mixtral", {"coupling-complete": r"gate\.weight dim 1", "shapes": r"does not run"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The router keeps the hidden channels that everybody else lost."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in work.names("mlp.gate.weight"):
        work.recut(name, {1: range(64)})
    return work.with_classes(without(work.outcome.classes, lambda m: m.parameter.endswith("mlp.gate.weight")))

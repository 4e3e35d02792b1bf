"""``forgotten/output-projection``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work, without


@fault("zoo:qwen2_moe", {"coupling-complete": r"o_proj\.weight dim 1", "shapes": r"does not run"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Heads go from queries, keys and values; the output projection still reads them."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name in work.names("o_proj.weight"):
        work.recut(name, {1: range(64)})
    return work.with_classes(
        without(work.outcome.classes, lambda m: m.parameter.endswith("o_proj.weight") and m.dim == 1)
    )

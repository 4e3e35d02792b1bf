"""``forgotten/one-expert``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault("synthetic:listed", {"ratio-honoured": r"experts\.2\.gate_proj\.weight keeps 16 of 16"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """One listed expert keeps all its inner channels; the model runs all the same."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        name = work.name(f"experts.2.{name}.weight")
        work.recut(name, {dim: range(16)})
    return work.outcome

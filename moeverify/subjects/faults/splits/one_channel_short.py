"""``splits/one-channel-short``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil import Work


@fault(
    "synthetic:listed",
    {"config-in-step": r"configuration gives .*experts\.1\.\w+\.weight"},
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """An open end is taken for a closed one: an expert loses one channel more than asked."""
    work = Work(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    for ending, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        name = work.name(f"experts.1.{ending}.weight")
        work.recut(name, {dim: work.kept(name, dim)[:-1]})
    return work.outcome

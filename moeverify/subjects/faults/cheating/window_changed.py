"""``cheating/window-changed``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "zoo:mixtral",
    {
        "unrelated-unchanged": r"sliding_window = 33",
        "masked-equivalence": r"differs from the masked original",
    },
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The attention window of the configuration becomes one token longer than the examples."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.sliding_window = 33
    return outcome

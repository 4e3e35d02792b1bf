"""``cheating/configuration-namespace``"""

from types import SimpleNamespace

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault(
    "zoo:mixtral", {"config-in-step": r"lost the configuration", "unrelated-unchanged": r"no configuration any more"}
)
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The configuration is left as a plain namespace, which nothing can save."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config = SimpleNamespace(**vars(model.config))
    return outcome

"""``cheating/training-entry-changed``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"unrelated-unchanged": r"router_aux_loss_coef"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The coefficient of the router's loss is set to zero in the configuration."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)
    model.config.router_aux_loss_coef = 0.0
    return outcome

"""``saving/key-dropped``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:mixtral", {"reload": r"missing keys on reload: .*gate"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """A router's weight is left out of the file, and is random after loading."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)

    def drop(module, state, prefix, metadata):
        for key in [key for key in state if key.endswith("layers.1.mlp.gate.weight")]:
            del state[key]

    model.register_state_dict_post_hook(drop)
    return outcome

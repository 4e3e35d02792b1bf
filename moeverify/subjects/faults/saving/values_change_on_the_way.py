"""``saving/values-change-on-the-way``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.moe import prune_moe


@fault("zoo:qwen3_moe", {"reload": r"logits differ"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """The state that is saved is rounded to bfloat16 on the way."""
    outcome = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)

    def round_values(module, state, prefix, metadata):
        for key, value in state.items():
            if key.endswith("down_proj"):
                state[key] = value.bfloat16().to(value.dtype)

    model.register_state_dict_post_hook(round_values)
    return outcome

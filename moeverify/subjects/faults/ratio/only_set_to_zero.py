"""``ratio/only-set-to-zero``"""

import torch

from moeverify.subjects.faults.registry import fault


@fault("zoo:qwen2_moe", {"something-pruned": r"nothing was pruned"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Channels are set to zero and stay where they are."""
    for name, parameter in model.named_parameters():
        if name.endswith("down_proj"):
            with torch.no_grad():
                parameter[..., : int(parameter.shape[-1] * pruning_ratio)] = 0

"""``ratio/experts-spared``"""

import torch

from moeverify.pruning.pruner import MoEPruner
from moeverify.subjects.faults.registry import fault


@fault("zoo:qwen3_moe", {"something-pruned": r"routed experts of .* were not pruned"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Only attention and the dense layers are pruned."""
    torch.manual_seed(seed)
    spared = {"hidden": 0.0, "routed_experts": 0.0}
    MoEPruner(model, example_inputs, pruning_ratio=pruning_ratio, ratios=spared).step()

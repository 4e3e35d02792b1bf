"""``unsteady/random-state``"""

import torch_pruning as tp

from moeverify.pruning.pruner import MoEPruner
from moeverify.subjects.faults.registry import fault


@fault("zoo:qwen3_moe", {"deterministic": r"differs between two equal runs"})
def prune(model, example_inputs, *, pruning_ratio, seed):
    """Channels are drawn from the random state as it happens to be, the seed is not used."""
    importance = tp.importance.RandomImportance()
    MoEPruner(model, example_inputs, importance, pruning_ratio=pruning_ratio).step()

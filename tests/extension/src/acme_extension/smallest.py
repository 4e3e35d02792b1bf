"""An importance for channels, and a criterion for whole experts."""

import torch
import torch_pruning as tp

from moeverify.pruning.choice.criteria import ExpertWeights, by_weights
from moeverify.pruning.choice.importances import importance


@importance("acme-largest-weight")
class LargestWeight(tp.importance.GroupMagnitudeImportance):
    """The largest weight of a channel."""

    def __init__(self) -> None:
        super().__init__(p=torch.inf, group_reduction="max")


@by_weights("acme-largest-weight")
def largest_weight(weights: ExpertWeights, generator: torch.Generator) -> torch.Tensor:
    """The largest weight of an expert."""
    return torch.stack([flat.abs().max() for flat in weights.flat])

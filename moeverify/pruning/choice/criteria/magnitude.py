"""``magnitude``: the norm of an expert's weights."""

import torch

from moeverify.pruning.choice.criteria.registry import ExpertWeights, by_weights


@by_weights("magnitude")
def magnitude(weights: ExpertWeights, generator: torch.Generator) -> torch.Tensor:
    """The root of the sum of squares of all weights of an expert."""
    return torch.stack([w.square().sum().sqrt() for w in weights.flat])

"""``random``: by chance, the baseline that every other criterion must beat."""

import torch

from moeverify.pruning.choice.criteria.registry import ExpertWeights, by_weights


@by_weights("random")
def random(weights: ExpertWeights, generator: torch.Generator) -> torch.Tensor:
    """A number drawn for each expert, the same for the same seed."""
    return torch.rand(len(weights.flat), generator=generator, dtype=torch.float64)

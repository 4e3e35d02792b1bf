"""``aimer``: how evenly an expert's weights are spread, from weights alone (ZongfangLiu/AIMER)."""

import torch

from moeverify.pruning.choice.criteria.registry import ExpertWeights, by_weights


@by_weights("aimer")
def aimer(weights: ExpertWeights, generator: torch.Generator) -> torch.Tensor:
    """The negative of mean(abs(w)) / rms(w) over all weights of an expert: the highest ratios go first."""
    return torch.stack([-w.abs().mean() / w.square().mean().sqrt().clamp_min(1e-300) for w in weights.flat])

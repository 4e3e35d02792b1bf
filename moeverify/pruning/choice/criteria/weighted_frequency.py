"""``weighted-frequency``: how much routing weight an expert gets in all (Lasby et al. 2025, arXiv:2510.13999)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics


@by_statistics("weighted-frequency")
def weighted_frequency(statistics: LayerStatistics) -> torch.Tensor:
    """Sum of g over the tokens routed to an expert."""
    return statistics.weight

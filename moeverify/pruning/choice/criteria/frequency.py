"""``frequency``: how often an expert is chosen (a baseline of Lasby et al. 2025, arXiv:2510.13999)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics


@by_statistics("frequency")
def frequency(statistics: LayerStatistics) -> torch.Tensor:
    """Number of tokens routed to an expert."""
    return statistics.tokens

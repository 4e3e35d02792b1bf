"""``ean``: expert activation norm (a baseline of Lasby et al. 2025, arXiv:2510.13999)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics


@by_statistics("ean")
def ean(statistics: LayerStatistics) -> torch.Tensor:
    """Sum of norm(f) over the tokens routed to an expert."""
    return statistics.norm

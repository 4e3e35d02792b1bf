"""``msan``: mean squared activation norm (arXiv:2606.15716)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics, mean


@by_statistics("msan")
def msan(statistics: LayerStatistics) -> torch.Tensor:
    """Mean of norm(f) squared over the tokens routed to an expert."""
    return mean(statistics.square, statistics.tokens)

"""``man``: mean activation norm (arXiv:2606.15716)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics, mean


@by_statistics("man")
def man(statistics: LayerStatistics) -> torch.Tensor:
    """Mean of norm(f) over the tokens routed to an expert."""
    return mean(statistics.norm, statistics.tokens)

"""``reap``: router-weighted expert activation pruning (Lasby et al. 2025, arXiv:2510.13999)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics, mean


@by_statistics("reap")
def reap(statistics: LayerStatistics) -> torch.Tensor:
    """Mean of g * norm(f) over the tokens routed to an expert, g being the model's own routing weight."""
    return mean(statistics.weighted_norm, statistics.tokens)

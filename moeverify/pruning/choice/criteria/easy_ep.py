"""``easy-ep``: how much an expert's output counts where its layer turns the token (RUCAIBox/EASYEP)."""

import torch

from moeverify.pruning.choice.criteria.registry import LayerStatistics, by_statistics


@by_statistics("easy-ep")
def easy_ep(statistics: LayerStatistics) -> torch.Tensor:
    """Sum of g * norm(f) * max(1 - cos(in, out), 0).

    ``in`` is a token as the experts read it, ``out`` the same with what its routed experts give added.
    """
    return statistics.turned

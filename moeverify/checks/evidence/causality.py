"""Outputs with a row for each token, and the distance by which rows move when later tokens change."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from moeverify.models.outputs import scale_of

Outputs = Mapping[str, torch.Tensor]


def rows_by_token(outputs: Outputs, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs ``[batch, tokens, ...]``; a single number such as a loss has no rows."""
    return {name: tensor for name, tensor in outputs.items() if tensor.dim() >= 2 and tensor.shape[:2] == ids.shape}


def movement(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Change of each row ``[batch, tokens]``, relative to the largest value of ``before``.

    Infinite where one of two values is NaN or infinite and the other is not the same.
    """
    gaps = (after - before).abs()
    same = (before == after) | (before.isnan() & after.isnan())
    gaps = gaps.masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    rows = gaps.reshape(*before.shape[:2], -1).amax(-1)
    return rows / (scale_of(before) or 1.0)

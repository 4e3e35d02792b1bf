"""Keys of rows: a hash of some of their values, so that equal rows are found without comparing all with all."""

from __future__ import annotations

import numpy as np
import torch

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_bits(values: torch.Tensor) -> torch.Tensor:
    """Values as integers of their size: equal bits are equal, NaN included."""
    return values.view(_INTEGERS[values.element_size()])


def in_type(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values converted to the dtype of another folder; only floating-point values are converted."""
    if values.dtype == dtype or not (values.is_floating_point() and dtype.is_floating_point):
        return values
    return values.to(dtype)


def hash_rows(rows: torch.Tensor, seed: int = 0) -> np.ndarray:
    """One number of 64 bits for each row of ``[rows, values]``."""
    bits = as_bits(rows.contiguous()).numpy()
    columns: int = bits.shape[1]
    weights = np.random.default_rng(seed).integers(1, 2**63, size=columns, dtype=np.uint64) * 2 + 1
    total = np.zeros(len(bits), dtype=np.uint64)
    for column, weight in enumerate(weights):
        mixed = (bits[:, column].astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * weight
        total += mixed ^ (mixed >> np.uint64(31))
    return total


def match(wanted: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted key the position that holds it, -1 if none does; and whether more than one does.

    Equal keys are handed out in ascending order.
    """
    order = np.argsort(there, kind="stable")
    ranked = there[order]
    first = np.searchsorted(ranked, wanted, side="left")
    count = np.searchsorted(ranked, wanted, side="right") - first
    turn = np.zeros(len(wanted), dtype=np.int64)
    if (count > 1).any():
        seen: dict[int, int] = {}
        for position in np.flatnonzero(count > 1):
            key = int(wanted[position])
            turn[position] = seen.get(key, 0)
            seen[key] = int(turn[position]) + 1
    spot = np.minimum(first + np.minimum(turn, np.maximum(count - 1, 0)), len(there) - 1)
    return np.where(count > 0, order[spot], -1), count > 1

"""How many units stay."""

from __future__ import annotations

import math


def kept_units(size: int, ratio: float, round_to: int | None = None) -> int:
    """How many of ``size`` units stay: as Torch-Pruning counts, then down to a multiple of ``round_to``.

    >>> kept_units(32, 0.5), kept_units(30, 0.25, round_to=4)
    (16, 20)
    """
    return round_down(int(size * (1 - ratio) + 1e-9), round_to)


def round_down(kept: int, round_to: int | None) -> int:
    """``kept`` down to a multiple of ``round_to``, if there is one."""
    return kept - kept % round_to if round_to else kept


def least_units(size: int, max_ratio: float) -> int:
    """How many of ``size`` units must stay under a maximum ratio: at least one."""
    return max(1, math.ceil(size * (1 - max_ratio) - 1e-9))

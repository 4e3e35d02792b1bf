"""Number of units that a ratio leaves, counted without the pruner."""

from __future__ import annotations

import math
from fractions import Fraction

from torch import nn

# torch.nn.functional.grouped_mm takes rows of whole blocks of so many bytes.
_KERNEL_BLOCK = 16


def units_left(size: int, ratio: float) -> int:
    """Whole units left of ``size``, by the ratio as it was written.

    >>> units_left(32, 0.5), units_left(30, 0.25), units_left(10, 0.7)
    (16, 22, 3)
    """
    return math.floor(size * (1 - Fraction(str(ratio))))


def kernel_multiple(model: nn.Module) -> int:
    """The multiple that sizes of fused experts keep for the kernel that the model's configuration names; else 1."""
    config = getattr(model, "config", None)
    if getattr(config, "_experts_implementation", None) != "grouped_mm":
        return 1
    widths = {p.element_size() for p in model.parameters() if p.dim() == 3}
    return max((_KERNEL_BLOCK // width for width in widths), default=1)

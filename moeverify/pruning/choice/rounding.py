"""Number of units that stay."""

from __future__ import annotations

import math
import warnings

from torch import nn

from moeverify.errors import UsageError

# torch.nn.functional.grouped_mm, which transformers computes fused experts with, takes rows of so many bytes only.
GROUPED_MM_BYTES = 16


def kept_units(size: int, ratio: float, round_to: int | None = None) -> int:
    """Number of ``size`` units that stay: as Torch-Pruning counts, then down to a multiple of ``round_to``.

    >>> kept_units(32, 0.5), kept_units(30, 0.25, round_to=4)
    (16, 20)
    """
    return round_down(int(size * (1 - ratio) + 1e-9), round_to)


def round_down(kept: int, round_to: int | None) -> int:
    """``kept`` down to a multiple of ``round_to``, if there is one."""
    return kept - kept % round_to if round_to else kept


def alignment(model: nn.Module) -> int:
    """The number of elements that sizes must be a multiple of for the model's own kernels; 1 if any will do."""
    if getattr(getattr(model, "config", None), "_experts_implementation", None) != "grouped_mm":
        return 1
    sizes = [p.element_size() for p in model.parameters() if p.dim() == 3]
    return max(1, GROUPED_MM_BYTES // min(sizes)) if sizes else 1


def aligned(model: nn.Module, round_to: int | None) -> int | None:
    """Smallest multiple of ``round_to`` with which the pruned model runs; warns if it differs from ``round_to``.

    Raises ``UsageError`` unless ``round_to`` is ``None`` or a positive whole number.
    """
    if round_to is not None and (not isinstance(round_to, int) or round_to < 1):
        raise UsageError(f"round_to must be a positive number, not {round_to!r}")
    needed = math.lcm(alignment(model), round_to or 1)
    if round_to is not None and needed != round_to:
        warnings.warn(
            f"sizes are rounded to multiples of {needed} instead of {round_to}: grouped_mm experts of this precision "
            'run with no others (model.set_experts_implementation("eager") does)',
            stacklevel=3,
        )
    return needed if needed > 1 else round_to


def least_units(size: int, max_ratio: float, round_to: int | None = None) -> int:
    """Least number of ``size`` units under a maximum ratio: at least one, up to a multiple of ``round_to``.

    >>> least_units(64, 0.6), least_units(64, 0.6, round_to=4), least_units(6, 1.0, round_to=8)
    (26, 28, 6)
    """
    least = max(1, math.ceil(size * (1 - max_ratio) - 1e-9))
    return min(-(-least // round_to) * round_to if round_to else least, size)

"""A source's model in the precision that was asked for, and proof that it is still the same model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moeverify.errors import SourceError
from moeverify.models.containers import map_leaves
from moeverify.models.exercise import run_all
from moeverify.models.numerics import cast
from moeverify.models.outputs import scale_of

# A cast to the same or a finer precision changes outputs by rounding; more than this is another model.
_ROUNDED = 1e-2


def cast_source(name: str, model: nn.Module, inputs: Any, dtype: torch.dtype) -> Any:
    """Cast ``model`` in place, and return its inputs cast alike.

    Raises ``SourceError`` if a cast to no coarser precision changes the outputs by more than rounding.
    """
    values = not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    before = _outputs(model, inputs) if values else {}
    steady = before and not _moved(before, _outputs(model, inputs))
    finest = min((torch.finfo(t.dtype).eps for t in _inexact(model)), default=0.0)
    cast(model, dtype)
    inputs = map_leaves(lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, inputs)
    if steady and torch.finfo(dtype).eps <= finest and (moved := _moved(before, _outputs(model, inputs))):
        raise SourceError(
            f"{name} computes other values in {str(dtype).removeprefix('torch.')}: {moved}; "
            "give the precision that it was written for with --dtype"
        )
    return inputs


def _inexact(model: nn.Module) -> list[torch.Tensor]:
    return [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() or t.is_complex()]


def _outputs(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    """Outputs of a model on its example inputs; nothing if it does not run."""
    try:
        return run_all(model, inputs)
    except Exception:
        return {}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> str:
    """Output that a cast moved, and by how much of its largest value; empty if it is rounding.

    A model that does not run after the cast is left to the checks, which give the reason.
    """
    for name, one in before.items() if after else ():
        two = after.get(name)
        if two is None or two.shape != one.shape:
            return f"{name} has another shape"
        both = one.isfinite() & two.isfinite()
        gap, scale = (two.double() - one.double())[both], scale_of(one)
        if gap.numel() and scale and float(gap.abs().max()) > _ROUNDED * scale:
            return f"{name} moves by {float(gap.abs().max()) / scale:.0%}"
    return ""

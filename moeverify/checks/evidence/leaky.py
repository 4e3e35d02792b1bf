"""Activations without dead zones, for evidence from gradients.

A ReLU that is silent on all inputs used hides its channel: its weights have no gradient, as if nothing read them. Which
channels belong together does not depend on the shape of an activation that maps zero to zero. Such activations are
replaced by ones that let every channel through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

SLOPE = 0.3
_RELU = (F.relu, torch.relu, torch.Tensor.relu)
_RELU_IN_PLACE = (F.relu_, torch.relu_, torch.Tensor.relu_)
_CLAMP = (torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip)
_CLAMP_MIN = (torch.clamp_min, torch.Tensor.clamp_min)
_SMOOTH: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    F.hardswish: F.silu,
    F.hardsigmoid: torch.sigmoid,
    F.hardshrink: torch.clone,
    F.softshrink: torch.clone,
}


class LeakyActivations(TorchFunctionMode):
    """While active, ReLU and its relatives have a slope everywhere: ReLU6, hardtanh, hardswish, clamping at zero.

    ``threshold`` and activations written out by comparisons stay as they are.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RELU or func in _RELU_IN_PLACE:
            value = args[0] if args else kwargs["input"]
            in_place = func in _RELU_IN_PLACE or bool(kwargs.get("inplace") or (len(args) > 1 and args[1]))
            return F.leaky_relu(value, SLOPE, inplace=in_place) if value.is_floating_point() else func(*args, **kwargs)
        if func in _SMOOTH:
            return _SMOOTH[func](args[0] if args else kwargs["input"])
        result = func(*args, **kwargs)
        if (limits := _limits(func, args, kwargs)) is not None:
            value = args[0] if args else kwargs["input"]
            if value.is_floating_point() and limits[0] == 0:
                return result + SLOPE * (value - result)
        return result


def _limits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """The lower and upper limit that a clamping function was given, ``None`` if one is a tensor. For a symmetric one
    ``(0, limit)``, since it maps zero to zero as well.
    """
    if func is F.relu6:
        return 0, 6
    if func is F.hardtanh:
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return (0, high) if low <= 0 <= high else None
    if func in _CLAMP_MIN:
        low, high = args[1] if len(args) > 1 else kwargs.get("min"), None
    elif func in _CLAMP:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
    else:
        return None
    return None if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor) else (low, high)

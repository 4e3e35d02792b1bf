"""Results of element by element operations on the meta device. PyTorch finds the shapes of these in Python, which costs
as much as a small operation with weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Operations that keep a floating-point dtype.
OPERATIONS = frozenset(
    {"add", "cos", "div", "exp", "gelu", "mul", "neg", "pow"}
    | {"relu", "rsqrt", "sigmoid", "silu", "sin", "sqrt", "sub", "tanh"}
)
# As functions and methods, and as Python's operators with their reflected forms.
_NAMES = (
    OPERATIONS | {"__truediv__", "__rtruediv__", "__rdiv__"} | {f"__{r}{n}__" for n in OPERATIONS for r in ("", "r")}
)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def result_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """The result of an operation on contiguous tensors of one floating dtype and numbers; ``None`` for any others."""
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    plain = all(type(value) in (int, float) or isinstance(value, torch.Tensor) for value in args)
    if not plain or not tensors or kwargs.keys() - {"alpha"}:
        return None
    dtype = tensors[0].dtype
    if not all(t.is_meta and type(t) in _PLAIN and t.dtype == dtype and t.is_contiguous() for t in tensors):
        return None
    if not dtype.is_floating_point:
        return None
    return torch.empty(torch.broadcast_shapes(*(t.shape for t in tensors)), dtype=dtype, device="meta")


class CheapResults(TorchFunctionMode):
    """A context in which constructors of modules get the tables that they compute on the meta device at little cost.

    Covered are ranges of whole numbers, and operations on tensors without gradients.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = None
        if func is torch.arange:
            result = _range(args, kwargs)
        elif getattr(func, "__name__", "") in _NAMES:
            needs_gradient = any(isinstance(value, torch.Tensor) and value.requires_grad for value in args)
            result = None if needs_gradient else result_of(args, kwargs)
        return func(*args, **kwargs) if result is None else result


def _range(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """A range of whole numbers; ``None`` for anything else, and for what PyTorch refuses."""
    whole = 1 <= len(args) <= 3 and all(type(value) is int for value in args) and 0 not in args[2:]
    if not whole or kwargs.keys() - {"dtype"} or not (numbers := range(*args)):
        return None
    return torch.empty(len(numbers), dtype=kwargs.get("dtype") or torch.int64, device="meta")

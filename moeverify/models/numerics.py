"""Computing in float64 throughout, although a model casts down inside."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moeverify.models.forward import outermost_with

_LIFTED = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class _Lift(TorchDispatchMode):
    """Answers every request for float32 with float64, and for complex64 with complex128."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _LIFTED:
            kwargs["dtype"] = _LIFTED[kwargs["dtype"]]
        return func(*args, **kwargs)


@contextlib.contextmanager
def float64_throughout() -> Iterator[None]:
    """Lift casts to float32 (norms, softmax, rotary tables) to float64 while a float64 model runs."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Lift(), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(previous)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Change the precision of floating-point parameters and buffers, in place; complex ones stay complex.

    ``Module.to(dtype)`` would drop the imaginary part of a rotary table that is kept in complex numbers.
    """
    pair = {torch.float64: torch.complex128, torch.float32: torch.complex64}.get(dtype)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            return tensor.to(dtype)
        # There are no complex numbers of half precision that kernels take; those stay as they are.
        return tensor.to(pair) if tensor.is_complex() and pair is not None else tensor

    return model._apply(change)


def in_float64(model: nn.Module) -> nn.Module:
    """A float64 copy; experts in plain operations, since grouped kernels do not take float64."""
    model = cast(copy.deepcopy(model), torch.float64)
    for inner in outermost_with(model, "set_experts_implementation"):
        if getattr(inner.config, "_experts_implementation", None):
            inner.set_experts_implementation("eager")
    return model

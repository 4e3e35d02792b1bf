"""Computing in float64 throughout, although a model casts down inside."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Lift(TorchDispatchMode):
    """Answers every request for float32 with float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
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


def in_float64(model: nn.Module) -> nn.Module:
    """A float64 copy; experts in plain operations, since grouped kernels do not take float64."""
    model = copy.deepcopy(model).double()
    if hasattr(model, "set_experts_implementation") and getattr(model.config, "_experts_implementation", None):
        model.set_experts_implementation("eager")
    return model

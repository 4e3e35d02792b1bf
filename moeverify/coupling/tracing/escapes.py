"""Data that a program takes out of PyTorch's sight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

# Read memory without an operation that the dispatcher would see.
ESCAPES = frozenset(
    {
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor.data_ptr,
    }
)


class Escapes(TorchFunctionMode):
    """Tells of every tensor whose data leaves by one of ``ESCAPES``."""

    def __init__(self, tell: Callable[[torch.Tensor, str], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ESCAPES and args:
            self._tell(args[0], func.__name__)
        return func(*args, **(kwargs or {}))

"""Data that a program takes out of PyTorch's sight."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

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

# Functions that take an address to look at its alignment, and read nothing there.
ALIGNMENT_TESTS = frozenset({("transformers.integrations.moe", "_can_use_grouped_mm")})


class Escapes(TorchFunctionMode):
    """Calls ``on_escape`` with every tensor whose data leaves by one of ``ESCAPES``, and the function's name."""

    def __init__(self, on_escape: Callable[[torch.Tensor, str], None]) -> None:
        super().__init__()
        self._on_escape = on_escape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in ESCAPES and args and not _tests_alignment(func, sys._getframe(1)):
            self._on_escape(args[0], func.__name__)
        return func(*args, **(kwargs or {}))


def _tests_alignment(func: Callable[..., Any], caller: FrameType) -> bool:
    place = (caller.f_globals.get("__name__"), caller.f_code.co_name)
    return func is torch.Tensor.data_ptr and place in ALIGNMENT_TESTS

"""Numbers of tokens that a forward admits, such as the capacity of an expert."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_COMPARISONS = {_aten.lt.Scalar, _aten.le.Scalar, _aten.gt.Scalar, _aten.ge.Scalar}
# Bounds of a slice from here on stand for the end of the list. Others count even behind it: a capacity that no list
# reaches is one.
_NO_END = 2**62


class Limits(TorchDispatchMode):
    """Records whole numbers that values are compared with, and how many are chosen or taken from a list of positions.

    A choice along a dimension no longer than ``experts`` is one of experts or of their groups, and not recorded.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.experts = experts
        self.numbers: dict[int, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _COMPARISONS and type(args[1]) is int:
            self.numbers[args[1]] = None
        elif func is _aten.slice.Tensor and args[0].dim() == 1 and args[0].dtype is torch.int64:
            self.numbers |= {number: None for number in args[2:4] if type(number) is int and 0 < number < _NO_END}
        elif func is _aten.topk.default:
            dim = args[2] if len(args) > 2 else -1
            if args[0].dim() and args[0].shape[dim] > self.experts:
                self.numbers[args[1]] = None
        return func(*args, **(kwargs or {}))


def other_capacity(before: Limits, after: Limits) -> str:
    """Why a model with fewer experts computes otherwise than one with masked experts; empty if no number differs.

    The forward works out from the number of experts how many tokens each of them takes.
    """
    was = next((number for number in before.numbers if number not in after.numbers), None)
    now = next((number for number in after.numbers if number not in before.numbers), None)
    if was is None or now is None:
        return ""
    return (
        f"with fewer experts the forward admits another number of tokens ({now} where it was {was}), as "
        "no mask of the original does; give a model whose capacity leaves out no token"
    )

"""Numbers of tokens that a forward admits, such as the capacity of an expert."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_COMPARISONS = {_aten.lt.Scalar, _aten.le.Scalar, _aten.gt.Scalar, _aten.ge.Scalar}


class Limits(TorchDispatchMode):
    """Records, in order, the whole numbers that values are compared with, and how many of a dimension are chosen.

    A choice along a dimension no longer than ``experts`` is one of experts or of their groups, and not recorded.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.experts = experts
        self.numbers: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _COMPARISONS and type(args[1]) is int:
            self.numbers.append(args[1])
        elif func is _aten.topk.default:
            dim = args[2] if len(args) > 2 else -1
            if args[0].dim() and args[0].shape[dim] > self.experts:
                self.numbers.append(args[1])
        return func(*args, **(kwargs or {}))


def other_capacity(before: Limits, after: Limits) -> str:
    """Why a model with fewer experts computes otherwise than one with masked experts; empty if no number differs.

    The forward works out from the number of experts how many tokens each of them takes.
    """
    pairs = zip(before.numbers, after.numbers, strict=False)
    numbers = next(((a, b) for a, b in pairs if a != b), None)
    if numbers is None or len(before.numbers) != len(after.numbers):
        return ""
    return (
        f"with fewer experts the forward admits another number of tokens ({numbers[1]} where it was {numbers[0]}), as "
        "no mask of the original does; give a model whose capacity leaves out no token"
    )

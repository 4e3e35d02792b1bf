"""Numbers in a forward that follow the number of experts, such as the factor of a balancing loss.

A masked original still computes with the number that it has. With the new one in its place it shows whether that is all
that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_ARITHMETIC = {getattr(_aten, name).Tensor for base in ("mul", "div", "add", "sub") for name in (base, f"{base}_")} | {
    _aten.pow.Tensor_Scalar,
    _aten.rsub.Scalar,
    _aten.mul.Scalar,
    _aten.div.Scalar,
}
# What a program makes of the number: a factor, a mean, the largest entropy.
_FUNCTIONS: tuple[Callable[[int], float], ...] = (
    float,
    lambda n: 1 / n,
    lambda n: float(n * n),
    lambda n: 1 / (n * n),
    math.sqrt,
    lambda n: 1 / math.sqrt(n),
    lambda n: math.log(n) if n > 1 else math.nan,
    lambda n: 1 / math.log(n) if n > 1 else math.nan,
)


class Scalars(TorchDispatchMode):
    """Records numbers that tensors are added to, multiplied with or divided by, and puts others in their place."""

    def __init__(self, instead: Mapping[float, float] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's modes have no types
        self.instead = dict(instead or {})
        self.numbers: dict[float, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ARITHMETIC and len(args) > 1 and type(args[1]) in (int, float):
            self.numbers[float(args[1])] = None
            if (other := self.instead.get(float(args[1]))) is not None:
                args = (args[0], other, *args[2:])
        return func(*args, **(kwargs or {}))


def new_numbers(before: Scalars, after: Scalars, counts: Collection[tuple[int, int]]) -> dict[float, float]:
    """Numbers of the first forward, each with what the second has in its place.

    ``counts``: numbers of experts before and after. Both must be the same function of them, times one constant.

    >>> before, after = Scalars(), Scalars()
    >>> before.numbers, after.numbers = {0.04: None, 2.0: None}, {0.03: None, 2.0: None}
    >>> new_numbers(before, after, [(4, 3)])
    {0.04: 0.03}
    """
    gone = [number for number in before.numbers if number not in after.numbers]
    new = [number for number in after.numbers if number not in before.numbers]
    ratios = [function(now) / function(was) for was, now in counts if was != now for function in _FUNCTIONS]
    result = {}
    for number in gone:
        fitting = [other for other in new if any(math.isclose(number * r, other, rel_tol=1e-12) for r in ratios)]
        if len(fitting) == 1:
            result[number] = fitting[0]
    return result


def other_numbers(numbers: Mapping[float, float]) -> str:
    """Why a model with fewer experts computes otherwise than one with masked experts."""
    was, now = next(iter(numbers.items()))
    return (
        f"with fewer experts the forward computes with other numbers ({now:.6g} where it was {was:.6g}), as no mask of "
        "the original does; give a model whose outputs do not follow the number of experts"
    )

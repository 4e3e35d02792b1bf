"""The registry of rules: one function per family of operations states how it relates dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from moeverify.coupling.relations import Relations


class Call(NamedTuple):
    """One executed operation with its tensors, and the way to their dimensions.

    ``args`` and ``kwargs`` are those of the schema, ``outputs`` the tensors it returned, and ``dims_of`` gives a
    tensor's dimension numbers in order.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[torch.Tensor, ...]
    dims_of: Callable[[torch.Tensor], tuple[int, ...]]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at ``position`` of the schema or passed as ``name``."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def dims(self, position: int) -> tuple[int, ...]:
        """Dimensions of the tensor argument at ``position``."""
        return self.dims_of(self.args[position])

    @property
    def out(self) -> tuple[int, ...]:
        """Dimensions of the first output."""
        return self.dims_of(self.outputs[0])

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor among the arguments, lists included."""
        result: list[torch.Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, torch.Tensor):
                    result.append(item)
        return result


Rule = Callable[[Call, Relations], None]
RULES: dict[str, Rule] = {}
SPARE: set[str] = set()


def rule(*names: str, spare: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for operations by packet name, such as ``aten.view``.

    ``spare``: outputs after the first serve the backward pass, so an unread one is no reason to freeze. Raises
    ``ValueError`` if a name already has a rule: one operation, one rule.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"{name} already has a rule: {RULES[name].__name__}")
            RULES[name] = function
        if spare:
            SPARE.update(names)
        return function

    return register


def normalise(dim: int, rank: int) -> int:
    """A negative dimension counted from the end, as its non-negative number."""
    return dim + rank if dim < 0 else dim


def dims_set(dims: int | Iterable[int] | None, rank: int) -> set[int]:
    """``dim`` arguments of reductions as a set: ``None`` and ``[]`` mean all dimensions."""
    if dims is None:
        return set(range(rank))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return {normalise(d, rank) for d in listed} if listed else set(range(rank))

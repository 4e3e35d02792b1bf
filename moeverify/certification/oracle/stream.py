"""Weights that are read from a checkpoint folder at the moment an operation takes them.

A model whose large weights are placeholders (one NaN, stretched to the shape) computes with them while ``Stream`` is
active. One matrix, one expert of a stack or one block of rows is in memory at a time, in float64. A weight that reaches
an operation past the stream makes the output NaN, which the proof sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from moeverify.models.folder.checkpoint import Checkpoint

# Rows of a matrix that are multiplied at once take so many bytes in float64.
BLOCK_BYTES = 1 << 26
_VALUES = tuple(getattr(torch.Tensor, name).__get__ for name in ("data", "T", "mT", "H", "mH"))
_WITHOUT_VALUES = frozenset(
    ("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "is_floating_point", "is_complex",
     "is_contiguous", "get_device", "requires_grad_", "__len__", "__hash__", "__repr__", "untyped_storage")
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight on disk: its name in ``checkpoint``, and positions that stayed, by dimension.

    ``kept[dim]`` is ``[size]``, or ``[experts, size]`` where each expert of a stack keeps others; ``True`` stays.
    ``rounding`` is a shorter type that values pass through.
    """

    name: str
    checkpoint: Checkpoint
    device: torch.device
    kept: Mapping[int, torch.Tensor] = field(default_factory=dict)
    rounding: torch.dtype | None = None

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The values at some positions of dimension 0, in float64, with removed ones at zero."""
        assembly = self.checkpoint.naming.tensors[self.name]
        if assembly.converter is not None and assembly.sliced:
            values = torch.stack([self.checkpoint.read(self.name, int(row)) for row in index])
        else:
            values = self.checkpoint.read(self.name).index_select(0, index)
            self.checkpoint.reader.note_read(values.nbytes)
        values = values if self.rounding is None else values.to(self.rounding)
        values = values.to(self.device, torch.float64)
        for dim, mask in self.kept.items():
            chosen = mask[index] if dim == 0 or mask.dim() == 2 else mask
            shape = [1] * values.dim()
            shape[dim] = values.shape[dim]
            if mask.dim() == 2:
                shape[0] = len(index)
            values = values.masked_fill(~chosen.view(shape).to(self.device), 0)
        return values

    def whole(self) -> torch.Tensor:
        """All values."""
        return self.rows(torch.arange(self.checkpoint.naming.tensors[self.name].shape[0]))


class Stream(TorchFunctionMode):
    """Mode in which operations on a placeholder get the values of the weight that it stands for. Placeholders are known
    by ``id``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[torch.Tensor, Weight]] = {}

    def add(self, placeholder: torch.Tensor, weight: Weight) -> None:
        """Let ``placeholder`` stand for ``weight``."""
        self._weights[id(placeholder)] = (placeholder, weight)

    def mask(self, placeholder: torch.Tensor, kept: Mapping[int, torch.Tensor]) -> None:
        """Read a weight with zeros outside ``kept``."""
        weight = self._weights[id(placeholder)][1]
        self._weights[id(placeholder)] = (placeholder, replace(weight, kept={**weight.kept, **kept}))

    def round(self, placeholder: torch.Tensor, dtype: torch.dtype) -> None:
        """Let a weight pass through a shorter type as it is read."""
        weight = self._weights[id(placeholder)][1]
        self._weights[id(placeholder)] = (placeholder, replace(weight, rounding=dtype))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _needs_no_values(func) or not any(self._find(a) for a in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__getitem__":
            weight, row = self._find(args[0]), _row(args[1])
            if weight is not None and row is not None:
                return weight.rows(torch.tensor([row % len(args[0])]))[0]
        if func is F.embedding:
            return self._embedding(func, args, kwargs)
        if func is F.linear:
            return self._linear(func, args, kwargs)
        return func(*map(self._given, args), **{k: self._given(v) for k, v in kwargs.items()})

    def _find(self, value: Any) -> Weight | None:
        if isinstance(value, list | tuple):
            return next((w for v in value if (w := self._find(v))), None)
        return self._weights[id(value)][1] if id(value) in self._weights else None

    def _given(self, value: Any) -> Any:
        """``value``, with the values of weights in the place of placeholders."""
        if isinstance(value, list | tuple) and self._find(value):
            return type(value)(map(self._given, value))
        weight = None if isinstance(value, list | tuple) else self._find(value)
        return value if weight is None else weight.whole()

    def _embedding(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look up in the rows that occur."""
        given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        weight = self._find(given["weight"])
        if weight is None or len(args) > 2 or given.get("max_norm") is not None:
            return func(*map(self._given, args), **{k: self._given(v) for k, v in kwargs.items()})
        rows, places = given["input"].unique(return_inverse=True)
        return F.embedding(places, weight.rows(rows.cpu()))

    def _linear(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Multiply block of rows by block of rows."""
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        matrix, bias = given["weight"], self._given(given.get("bias"))
        weight, hidden = self._find(matrix), self._given(given["input"])
        if weight is None or matrix.dim() != 2:
            return func(hidden, self._given(matrix), bias)
        height = max(1, BLOCK_BYTES // (8 * max(matrix.shape[1], 1)))
        blocks = torch.arange(matrix.shape[0]).split(height)
        result = torch.cat([func(hidden, weight.rows(block)) for block in blocks], -1)
        return result if bias is None else result + bias


def _needs_no_values(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name in _WITHOUT_VALUES or (name == "__get__" and func not in _VALUES)


def _row(index: Any) -> int | None:
    """The one row that an index names, if it does."""
    if isinstance(index, int | np.integer) and not isinstance(index, bool):
        return int(index)
    if isinstance(index, torch.Tensor) and not index.dim() and not index.is_floating_point():
        return None if index.dtype is torch.bool else int(index)
    return None

"""Weights that stay in their file: tensors of known shape whose values are read when an operation needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from moeverify.errors import MoEVerifyError

_aten = torch.ops.aten
# What only looks at a tensor in another shape: no value is read for it.
_VIEWS = frozenset(
    {
        _aten.detach.default,
        _aten.alias.default,
        _aten.view.default,
        _aten.t.default,
        _aten.transpose.int,
        _aten.permute.default,
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.unsqueeze.default,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.expand.default,
    }
)
_SAME = (_aten.detach.default, _aten.alias.default)
ReadRows = Callable[[int, int], torch.Tensor]


class StoredTensor(torch.Tensor):
    """A tensor without values; ``read`` gives them, and each operation asks for them anew.

    Views of it are stored tensors, too. Any other operation runs on the values and gives an ordinary tensor.
    """

    shape_only: torch.Tensor
    read: Callable[[], torch.Tensor]
    views: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    read_rows: ReadRows | None
    rows: tuple[int, int] | None

    @staticmethod
    def __new__(
        cls,
        shape_only: torch.Tensor,
        read: Callable[[], torch.Tensor],
        views: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (),
        read_rows: ReadRows | None = None,
        rows: tuple[int, int] | None = None,
    ) -> StoredTensor:
        """``shape_only`` lies on the meta device; ``views`` are applied in turn to what ``read`` gives.

        With ``rows``, they are applied to ``read_rows(*rows)``: the positions of dimension 0 from the first to before
        the last.
        """
        made: StoredTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            shape_only.shape,
            strides=shape_only.stride(),
            storage_offset=shape_only.storage_offset(),
            dtype=shape_only.dtype,
            device=torch.device("cpu"),
            requires_grad=False,
        )
        made.shape_only, made.read, made.views = shape_only, read, views
        made.read_rows, made.rows = read_rows, rows
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Shape and type; the values stay where they are."""
        return f"StoredTensor(shape={list(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """An ordinary tensor of the values: a copied module computes with weights of its own."""
        made = values_of(self).clone()
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made, requires_grad=self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch declares a function where it calls a class method
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Remember a view; run anything else on the values."""
        kwargs = kwargs or {}
        if func in _VIEWS and isinstance(args[0], StoredTensor):
            first, rest = args[0], args[1:]
            if func is _aten.slice.Tensor and first.read_rows is not None and not first.views:
                rows = _rows(first.shape_only, first.rows, *rest)
                if rows is not None:
                    shape_only = func(first.shape_only, *rest)
                    return StoredTensor(shape_only, first.read, (), first.read_rows, rows)

            def view(values: torch.Tensor) -> torch.Tensor:
                viewed: torch.Tensor = func(values, *rest, **kwargs)
                return viewed

            views = first.views if func in _SAME else (*first.views, view)
            return StoredTensor(view(first.shape_only), first.read, views, first.read_rows, first.rows)
        if func._schema.is_mutable and any(isinstance(a, StoredTensor) for a in args[:1]):
            raise MoEVerifyError(f"{func} would change a weight that stays in its file; load the model for that")
        return func(*tree_map(values_of, args), **tree_map(values_of, kwargs))


def values_of(value: Any) -> Any:
    """The values of a stored tensor as an ordinary one; anything else as it is."""
    if not isinstance(value, StoredTensor):
        return value
    values = value.read() if value.rows is None or value.read_rows is None else value.read_rows(*value.rows)
    for view in value.views:
        values = view(values)
    return values


def _rows(
    shape_only: torch.Tensor,
    inside: tuple[int, int] | None,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> tuple[int, int] | None:
    """The rows that a slice of the rows ``inside`` takes; ``None`` if it is no run along dimension 0."""
    first, last, _ = slice(start, end).indices(shape_only.shape[0])
    if dim != 0 or step != 1 or first >= last:
        return None
    offset = 0 if inside is None else inside[0]
    return first + offset, last + offset

"""Forwards of a skeleton on the meta device: several times cheaper than fake tensors, which know their device as well.

Where the forward asks for data, the same answers are made up as for fake tensors. Layers repeat, so most operations
were run before on tensors of the same shapes: then only their results are made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from moeverify.coupling.tracing.weightless import Imagination

_OF_DATA = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount")
_MASKS = (torch.bool, torch.uint8)
# Operations on elements that keep a floating-point dtype. PyTorch finds the shapes of their results in Python, which
# costs as much as a small operation with weights.
ELEMENT_BY_ELEMENT = frozenset(
    {"add", "cos", "div", "exp", "gelu", "mul", "neg", "pow"}
    | {"relu", "rsqrt", "sigmoid", "silu", "sin", "sqrt", "sub", "tanh"}
)
_OWN = (torch.Tensor, torch.nn.Parameter)
# Shape, stride and dtype of each result.
_Results = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]


@contextlib.contextmanager
def inputs_on_meta(example_inputs: Any) -> Iterator[Any]:
    """A context with the example inputs on the meta device."""
    yield tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example_inputs)


class OnMeta(Imagination):
    """Runs operations on meta tensors, and makes up results that depend on data."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Hashable, tuple[type, _Results]] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation. Raises what PyTorch raises, such as where devices are mixed."""
        name, repeatable = _facts(func)
        if _asks_for_data(name, args):
            return self.answer(func, args, kwargs)
        if not repeatable:
            return super().__call__(func, args, kwargs)
        try:
            key = (func, _key(args), _key(tuple(kwargs.items())))
            known = self._known.get(key)
        except TypeError:  # an argument that is no key
            return super().__call__(func, args, kwargs)
        if known is not None:
            kind, results = known
            made = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in results]
            return made[0] if kind is torch.Tensor else kind(made)
        if (
            name.removeprefix("aten::") in ELEMENT_BY_ELEMENT
            and (result := _element_by_element(args, kwargs)) is not None
        ):
            self._known[key] = torch.Tensor, ((tuple(result.shape), result.stride(), result.dtype),)
            return result
        result = super().__call__(func, args, kwargs)
        if _is_new(result, args, kwargs):
            several = result if isinstance(result, tuple | list) else (result,)
            self._known[key] = type(result), tuple((tuple(t.shape), t.stride(), t.dtype) for t in several)
        return result


@cache
def _facts(func: Any) -> tuple[str, bool]:
    """Name of an operation, and whether it makes new tensors and changes none."""
    schema = func._schema
    return schema.name, not schema.is_mutable and all(r.alias_info is None for r in schema.returns)


def _asks_for_data(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the result depends on values of a meta tensor."""
    if name == "aten::index":
        return any(index is not None and index.is_meta and index.dtype in _MASKS for index in args[1])
    return name in _OF_DATA and any(isinstance(a, torch.Tensor) and a.is_meta for a in args)


def _element_by_element(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The result of an operation on contiguous tensors of one floating dtype and numbers; ``None`` for any others."""
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    plain = all(type(value) in (int, float) or isinstance(value, torch.Tensor) for value in args)
    if not plain or not tensors or kwargs.keys() - {"alpha"}:
        return None
    dtype = tensors[0].dtype
    if not all(t.is_meta and type(t) in _OWN and t.dtype == dtype and t.is_contiguous() for t in tensors):
        return None
    if not dtype.is_floating_point:
        return None
    return torch.empty(torch.broadcast_shapes(*(t.shape for t in tensors)), dtype=dtype, device="meta")


def _key(value: Any) -> Hashable:
    """Key of an argument: what a result on the meta device depends on. Raises ``TypeError`` if there is none."""
    if isinstance(value, torch.Tensor):
        if not value.is_meta:  # the number in it may decide on the type of the result
            raise TypeError
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple([_key(part) for part in value])
    return type(value), value


def _is_new(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a result is plain tensors on the meta device that share memory with no argument."""
    several = result if isinstance(result, tuple | list) else (result,)
    if type(several) not in (tuple, list) or not all(type(t) is torch.Tensor and t.is_meta for t in several):
        return False
    given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
    owned = [t.untyped_storage()._cdata for t in several]
    return given.isdisjoint(owned) and len(set(owned)) == len(owned)

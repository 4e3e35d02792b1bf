"""Forwards of a skeleton on the meta device: several times cheaper than fake tensors, which know their device as well.

Where the forward asks for data, the same answers are made up as for fake tensors. Layers repeat, so most operations
were run before on tensors of the same shapes: then only their results are made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from moeverify.coupling.tracing.weightless import Imagination
from moeverify.models import element_by_element
from moeverify.models.containers import map_leaves

_OF_DATA = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount")
_MASKS = (torch.bool, torch.uint8)
# Shape, stride and dtype of each result.
_Results = tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
# Results by operation and arguments, of all forwards: those of one model in several sizes are alike for the most part.
_KNOWN: dict[Hashable, tuple[type, _Results]] = {}
_MOST = 2**14


@contextlib.contextmanager
def inputs_on_meta(example_inputs: Any) -> Iterator[Any]:
    """A context with the example inputs on the meta device."""
    yield map_leaves(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example_inputs)


class OnMeta(Imagination):
    """Runs operations on meta tensors, and makes up results that depend on data."""

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation. Raises what PyTorch raises, such as where devices are mixed."""
        name, repeatable = _facts(func)
        if _asks_for_data(name, args):
            return self.answer(func, args, kwargs)
        if not repeatable:
            return super().__call__(func, args, kwargs)
        try:
            key = (func, torch.get_default_dtype(), _key(args), _key(tuple(kwargs.items())))
            known = _KNOWN.get(key)
        except TypeError:  # an argument that is no key
            return super().__call__(func, args, kwargs)
        if known is not None:
            kind, results = known
            made = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in results]
            return made[0] if kind is torch.Tensor else kind(made)
        if (
            name.removeprefix("aten::") in element_by_element.OPERATIONS
            and (result := element_by_element.result_of(args, kwargs)) is not None
        ):
            _remember(key, torch.Tensor, (result,))
            return result
        result = super().__call__(func, args, kwargs)
        if _is_new(result, args, kwargs):
            _remember(key, type(result), result if isinstance(result, tuple | list) else (result,))
        return result


def _remember(key: Hashable, kind: type, results: Sequence[torch.Tensor]) -> None:
    if len(_KNOWN) >= _MOST:
        _KNOWN.clear()
    _KNOWN[key] = kind, tuple((tuple(t.shape), t.stride(), t.dtype) for t in results)


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

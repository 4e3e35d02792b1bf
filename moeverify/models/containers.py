"""Containers of tensors: those of PyTorch's pytree, dataclasses, and mappings and namespaces of other classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


def parts_of(value: Any, *, whole: bool = False) -> Iterator[tuple[int | str, Any]]:
    """Parts of a container by key. An object of any class is one if it is the ``whole`` output: inside of one it may
    be a cache, which is state and no output.
    """
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, SimpleNamespace) or (whole and hasattr(value, "__dict__") and not isinstance(value, type)):
        yield from vars(value).items()


def leaves(value: Any) -> Iterator[Any]:
    """Leaves of a nested value, with those that PyTorch's ``tree_leaves`` does not look for: in dataclasses, in
    mappings of a class of their own, and in an object that is the value itself.
    """
    for leaf in tree_leaves(value):
        parts = () if isinstance(leaf, torch.Tensor) else [part for _, part in parts_of(leaf, whole=leaf is value)]
        if parts:
            yield from leaves(parts)
        else:
            yield leaf


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """A nested value with every leaf changed, in containers of the same classes."""

    def changed(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return change(leaf)
        if is_dataclass(leaf) and not isinstance(leaf, type):
            result = copy.copy(leaf)
            for field in fields(leaf):
                # A frozen dataclass refuses plain assignment.
                object.__setattr__(result, field.name, map_leaves(change, getattr(leaf, field.name)))
            return result
        if isinstance(leaf, MutableMapping):
            result = copy.copy(leaf)
            for key, part in leaf.items():
                result[key] = map_leaves(change, part)
            return result
        if isinstance(leaf, SimpleNamespace):
            return type(leaf)(**{key: map_leaves(change, part) for key, part in vars(leaf).items()})
        return change(leaf)

    return tree_map(changed, value)

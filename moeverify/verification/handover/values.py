"""Python values as JSON data, and back: numbers, texts, containers, settings objects, our own dataclasses.

Arrays travel beside the document, by key. An object keeps its identity within one document: the second time it is
referred to by number. What is no data is written as its class alone (*opaque*), and is never built from a document.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from moeverify.errors import HandoverError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PLAIN = (bool, int, str, type(None))
_OPEN_CLASSES = (types.SimpleNamespace, argparse.Namespace)
_DEEPEST = 40


def class_path(kind: type) -> str:
    """``module:qualified name`` of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


class Writer:
    """Writes values. ``arrays`` collects tensors that travel beside the document, ``names`` those known by a name."""

    def __init__(self, modules: Mapping[int, str] | None = None, own: tuple[type[DataclassInstance], ...] = ()) -> None:
        self.arrays: dict[str, torch.Tensor] = {}
        self.names: dict[int, str] = {}
        self._modules = modules or {}
        self._own = own
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is only as good as its object lives

    def array(self, tensor: torch.Tensor) -> str:
        """Add a tensor; returns its key."""
        key = f"a{len(self.arrays)}"
        self.arrays[key] = tensor
        return key

    def write(self, value: Any, depth: int = 0) -> Any:
        """A value as JSON data."""
        if isinstance(value, np.integer | np.floating | np.bool_):
            scalar: Any = value.item()
            value = scalar
        if type(value) in PLAIN:
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$": "float", "text": repr(float(value))}
        if depth > _DEEPEST:
            return _opaque(value)
        inner = depth + 1
        if isinstance(value, torch.dtype):
            return {"$": "dtype", "name": str(value).removeprefix("torch.")}
        if isinstance(value, range):
            return {"$": "range", "ends": [value.start, value.stop, value.step]}
        if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
            return {"$": "array", "key": self.array(torch.from_numpy(np.ascontiguousarray(value)))}
        if isinstance(value, torch.Tensor):
            name = self.names.get(id(value))
            return {"$": "tensor", "name": name} if name else {"$": "loose", "key": self.array(value.detach())}
        if isinstance(value, nn.Module):
            path = self._modules.get(id(value))
            return _opaque(value) if path is None else {"$": "module", "path": path}
        if type(value) is list:
            return [self.write(item, inner) for item in value]
        if type(value) in (tuple, torch.Size):
            return {"$": "tuple", "items": [self.write(item, inner) for item in value]}
        if type(value) in (set, frozenset):
            items = sorted((self.write(item, inner) for item in value), key=repr)
            return {"$": "set", "frozen": type(value) is frozenset, "items": items}
        if isinstance(value, Mapping) and type(value) in (dict, types.MappingProxyType):
            return {"$": "dict", "items": [[self.write(k, inner), self.write(v, inner)] for k, v in value.items()]}
        if isinstance(value, self._own):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return self._object(value, type(value).__name__, fields, inner)
        if _is_settings(value):
            return self._object(value, class_path(type(value)), vars(value), inner)
        return _opaque(value)

    def _object(self, value: Any, kind: str, fields: Mapping[str, Any], depth: int) -> Any:
        if id(value) in self._numbers:
            return {"$": "same", "number": self._numbers[id(value)]}
        number = self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        written = {str(name): self.write(item, depth) for name, item in fields.items()}
        return {"$": "object", "number": number, "class": kind, "fields": written}


class Reader:
    """Reads values back. ``arrays`` are those that travelled beside the document, ``own`` the classes it may make.

    Raises ``HandoverError`` for a document that does not follow the format.
    """

    def __init__(
        self,
        arrays: Mapping[str, torch.Tensor],
        own: tuple[type, ...] = (),
        module: Callable[[str], nn.Module] | None = None,
        tensor: Callable[[str], torch.Tensor] | None = None,
    ) -> None:
        self._arrays = arrays
        self._own = {kind.__name__: kind for kind in own}
        self._module, self._tensor = module, tensor
        self._objects: dict[int, Any] = {}
        self._updated: set[int] = set()

    def read(self, data: Any, old: Any = None) -> Any:
        """A value; ``old`` is the base's in the same place, which stays where the document holds no data."""
        if isinstance(data, (*PLAIN, float)):
            return data
        if isinstance(data, list):
            return [self.read(item, _item(old, n)) for n, item in enumerate(data)]
        if not isinstance(data, dict):
            raise HandoverError(f"{type(data).__name__} is no value of a document")
        try:
            return self._tagged(data, old)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise HandoverError(f"the document holds no value where one is expected: {error!r}") from error

    def _tagged(self, data: Mapping[str, Any], old: Any) -> Any:
        kind = data["$"]
        if kind == "float":
            return float(data["text"])
        if kind == "dtype":
            return _dtype(data["name"])
        if kind == "range":
            return range(*data["ends"])
        if kind == "array":
            return self._arrays[data["key"]].numpy()
        if kind == "tuple":
            return tuple(self.read(item, _item(old, n)) for n, item in enumerate(data["items"]))
        if kind == "set":
            result = {self.read(item) for item in data["items"]}
            return frozenset(result) if data["frozen"] else result
        if kind == "dict":
            before = old if isinstance(old, Mapping) else {}
            pairs = ((self.read(k), v) for k, v in data["items"])
            return {key: self.read(item, before.get(key)) for key, item in pairs}
        if kind == "module":
            if self._module is None:
                raise HandoverError("a module where none is expected")
            return self._module(data["path"])
        if kind == "tensor" and self._tensor is not None:
            return self._tensor(data["name"])
        if kind == "loose":
            return self._arrays[data["key"]]
        if kind == "same":
            return self._objects[data["number"]]
        if kind == "object":
            return self._object(data, old)
        if kind == "opaque":
            if data["class"] != class_path(type(old)):
                raise HandoverError(f"an object of {data['class']} cannot travel as data")
            return old
        raise HandoverError(f"there is no value of kind {str(kind)[:40]!r}")

    def _object(self, data: Mapping[str, Any], old: Any) -> Any:
        fields = data["fields"]
        if (kind := self._own.get(data["class"])) is not None:
            made = kind(**{name: self.read(item) for name, item in fields.items()})
            self._objects[data["number"]] = made
            return made
        made = self._settings(data["class"], old)
        self._objects[data["number"]] = made
        before = dict(vars(made))
        for name in set(before) - set(fields):
            del vars(made)[name]
        for name, item in fields.items():
            vars(made)[name] = self.read(item, before.get(name))
        return made

    def _settings(self, kind: str, old: Any) -> Any:
        """The base's object of this class (it is the judge's own copy), or an empty one of a class without code."""
        if old is not None and class_path(type(old)) == kind:
            if id(old) in self._updated:  # two objects now where the base had one
                return copy.copy(old)
            self._updated.add(id(old))
            return old
        for known in _OPEN_CLASSES:
            if class_path(known) == kind:
                return known()
        raise HandoverError(f"an object of {kind} cannot be built from data")


def _is_settings(value: Any) -> bool:
    """Whether an object only holds values: a dataclass, a namespace, a configuration."""
    if isinstance(value, type) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return dataclasses.is_dataclass(value) or isinstance(value, _OPEN_CLASSES) or hasattr(value, "to_dict")


def _opaque(value: Any) -> dict[str, Any]:
    return {"$": "opaque", "class": class_path(type(value))}


def _item(old: Any, number: int) -> Any:
    return old[number] if isinstance(old, list | tuple) and number < len(old) else None


def _dtype(name: str) -> torch.dtype:
    value = getattr(torch, name, None)
    if not isinstance(value, torch.dtype):
        raise HandoverError(f"torch has no dtype {name[:40]!r}")
    return value

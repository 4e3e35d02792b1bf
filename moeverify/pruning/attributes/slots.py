"""Slots: integer attributes of modules, and integers inside the settings objects that attributes hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import nn

Step = str | int
_DEEPEST = 4
_LONGEST = 64
_NO_SETTINGS = (nn.Module, torch.Tensor, type, ModuleType, str, bytes, set, frozenset)
_PLAIN_DATA = (bool, int, float, str, type(None), list, tuple, dict, torch.dtype, torch.device)
_OWN_OF_MODULES = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Slot:
    """A place that holds an integer: ``steps`` lead to it from the module at the path ``module``.

    ``Slot("blocks.0.attn", ("n_head",))`` is an attribute, ``Slot("", ("config", "n_embd"))`` an entry of an object or
    mapping, ``Slot("mixer", ("sizes", 2))`` an element of a list.
    """

    module: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        name = self.module
        for step in self.steps:
            name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else str(step)
        return name


def entry(container: Any, step: Step) -> Any:
    """Value that ``step`` leads to: an item of a mapping or sequence, else an attribute."""
    return container[step] if is_indexed(container) else getattr(container, str(step))


def is_indexed(container: Any) -> bool:
    """Whether the entries of a container are items, not attributes."""
    return isinstance(container, Mapping | list) or (isinstance(container, tuple) and not is_named_tuple(container))


def is_named_tuple(value: Any) -> bool:
    """Whether a tuple has names for its elements."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def value_of(model: nn.Module, slot: Slot) -> Any:
    """The present value of a slot."""
    value: Any = model.get_submodule(slot.module)
    for step in slot.steps:
        value = entry(value, step)
    return value


def slots_of(model: nn.Module) -> Iterator[tuple[Slot, int]]:
    """Every slot of a model with its value; a settings object that several modules share is visited once.

    Layers of torch with parameters of their own are left out: their sizes follow their weights.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = type(module).__module__.startswith("torch.")
        if own and next(module.parameters(recurse=False), None) is not None:
            continue
        for name, value in _attributes(module).items():
            if name not in _OWN_OF_MODULES:
                yield from _inside(Slot(path, (name,)), value, seen)


def _inside(slot: Slot, value: Any, seen: set[int]) -> Iterator[tuple[Slot, int]]:
    if type(value) is int:
        yield slot, value
    elif _is_cache(slot, value):
        return
    elif len(slot.steps) <= _DEEPEST and id(value) not in seen:
        entries = entries_of(value)
        if entries and (is_named_tuple(value) or not isinstance(value, tuple)):
            seen.add(id(value))
        for step, inner in entries.items():
            yield from _inside(Slot(slot.module, (*slot.steps, step)), inner, seen)


def _is_cache(slot: Slot, value: Any) -> bool:
    """Whether a private mapping by number keeps results, such as the recipes of a layer of einops, and no settings."""
    private = str(slot.steps[0]).startswith("_")
    return private and isinstance(value, Mapping) and any(not isinstance(key, str) for key in value)


def entries_of(value: Any) -> dict[Step, Any]:
    """The entries of a settings object by step; empty for any other object."""
    if isinstance(value, Mapping):
        return {key: inner for key, inner in value.items() if isinstance(key, str | int)}
    if is_named_tuple(value):
        return dict(value._asdict())  # type: ignore[attr-defined]
    if isinstance(value, list | tuple):
        return dict(enumerate(value)) if len(value) <= _LONGEST else {}
    if is_namespace(value):
        return {name: inner for kind in reversed(value.__mro__[:-1]) for name, inner in _plain(kind).items()}
    if isinstance(value, _NO_SETTINGS) or callable(value) or type(value).__module__.startswith(("torch.", "numpy.")):
        return {}
    result: dict[Step, Any] = {}
    result.update(_attributes(value))
    return result


def is_namespace(value: Any) -> bool:
    """Whether a class holds settings and nothing else: ``class Config: d_model, n_heads = 64, 4``."""
    if not isinstance(value, type) or value.__module__.startswith(("torch.", "builtins")) or issubclass(value, Enum):
        return False
    kinds = value.__mro__[:-1]
    return all(set(_own_entries(kind)) == set(_plain(kind)) for kind in kinds) and any(map(_plain, kinds))


def _own_entries(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not (name[:2] == name[-2:] == "__")}


def _plain(kind: type) -> dict[Step, Any]:
    return {n: v for n, v in _own_entries(kind).items() if isinstance(v, _PLAIN_DATA)}


def _attributes(owner: Any) -> dict[str, Any]:
    """Attributes of an object and integers of its classes, properties excluded."""
    result: dict[str, Any] = {}
    for kind in reversed(type(owner).__mro__):
        if kind not in (object, nn.Module) and not kind.__module__.startswith("torch."):
            result.update(
                {name: value for name, value in vars(kind).items() if type(value) is int and name[:2] != "__"}
            )
    if dataclasses.is_dataclass(owner):  # one with slots has no dictionary
        result.update({f.name: getattr(owner, f.name) for f in dataclasses.fields(owner) if hasattr(owner, f.name)})
    result.update(getattr(owner, "__dict__", {}))
    return result

"""Attributes set to the sizes that a plan leaves, and put back if anything fails."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from moeverify.base.foreign import left_by
from moeverify.errors import PruningRefused
from moeverify.pruning.attributes.slots import Slot, Step, entries_of, entry, is_indexed, is_named_tuple, value_of

Undo = Callable[[], None]
_ABSENT = object()


@dataclass(frozen=True)
class AttributeChange:
    """A slot that a plan sets, with its value before and after."""

    slot: Slot
    old: int
    new: int

    def __str__(self) -> str:
        return f"{self.slot} {self.old} -> {self.new}"


def set_attributes(model: nn.Module, changes: Iterable[AttributeChange]) -> Undo:
    """Set all slots, or none; returns a function that restores the old values.

    Mutable objects keep their identity. A frozen dataclass or tuple is replaced by a changed copy wherever the model
    holds it. A class that serves as a namespace is replaced by an object with its entries. Holders outside the model
    keep the old one. Raises ``PruningRefused`` if a slot does not hold the old value or cannot be set.
    """
    done: list[Undo] = []

    def undo() -> None:
        while done:
            done.pop()()

    try:
        for change in changes:
            if value_of(model, change.slot) != change.old:
                raise PruningRefused(f"{change.slot} does not hold {change.old}; build the dependency graph again")
            _set(model, change, done)
    except Exception as error:
        undo()
        if isinstance(error, PruningRefused):
            raise
        raise PruningRefused(f"{change.slot} cannot be set to {change.new} ({left_by(error)})") from error
    return undo


def _set(model: nn.Module, change: AttributeChange, done: list[Undo]) -> None:
    holders: list[Any] = [model.get_submodule(change.slot.module)]
    for step in change.slot.steps[:-1]:
        holders.append(entry(holders[-1], step))
    value: Any = change.new
    for holder, step in zip(reversed(holders), reversed(change.slot.steps), strict=True):
        if not _is_frozen(holder):
            _put(holder, step, value, done)
            return
        replaced = _with_entry(holder, step, value)
        if not isinstance(holder, tuple) or is_named_tuple(holder):
            _replace(model, holder, replaced, done)
            return
        value = replaced  # an anonymous tuple is a value: only its own holder gets the new one


def _is_frozen(holder: Any) -> bool:
    frozen = not isinstance(holder, type) and dataclasses.is_dataclass(holder) and holder.__dataclass_params__.frozen  # type: ignore[union-attr]
    return frozen or isinstance(holder, tuple | type) or (isinstance(holder, Mapping) and not _is_mutable(holder))


def _is_mutable(holder: Any) -> bool:
    return isinstance(holder, MutableMapping | list)


def _put(holder: Any, step: Step, value: Any, done: list[Undo]) -> None:
    if is_indexed(holder):
        old = holder[step]
        holder[step] = value
        done.append(lambda: holder.__setitem__(step, old))
        return
    name = str(step)
    before = getattr(holder, "__dict__", {name: getattr(holder, name)}).get(name, _ABSENT)
    setattr(holder, name, value)
    done.append(lambda: delattr(holder, name) if before is _ABSENT else setattr(holder, name, before))


def _with_entry(holder: Any, step: Step, value: Any) -> Any:
    """A copy of a frozen object with one entry changed; nothing is computed anew in it."""
    if is_named_tuple(holder):
        return holder._replace(**{str(step): value})
    if isinstance(holder, tuple):
        return type(holder)([value if number == step else old for number, old in enumerate(holder)])
    if isinstance(holder, Mapping):
        return type(holder)({**holder, step: value})  # type: ignore[call-arg]
    if isinstance(holder, type):
        return SimpleNamespace(**{**entries_of(holder), str(step): value})  # type: ignore[arg-type]
    changed = copy.copy(holder)
    object.__setattr__(changed, str(step), value)
    return changed


def _replace(model: nn.Module, old: Any, new: Any, done: list[Undo]) -> None:
    """Put ``new`` wherever modules, or the settings objects they hold, have ``old``."""
    seen: set[int] = set()
    for module in model.modules():
        for name, value in list(vars(module).items()):
            changed = _replaced(value, old, new, seen, done)
            if changed is not value:
                _put(module, name, changed, done)


def _replaced(value: Any, old: Any, new: Any, seen: set[int], done: list[Undo]) -> Any:
    if value is old:
        return new
    if id(value) in seen:
        return value
    entries = entries_of(value)
    if entries and not isinstance(value, tuple):
        seen.add(id(value))
    for step, inner in entries.items():
        changed = _replaced(inner, old, new, seen, done)
        if changed is inner:
            continue
        if _is_frozen(value):
            value = _with_entry(value, step, changed)
        else:
            _put(value, step, changed, done)
    return value

"""Write new entries into a model's configuration, and the sizes that follow from them into its modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.models.skeleton import Attribute, Shapes, changed_attributes, shapes_of
from moeverify.pruning.configuration import document as doc
from moeverify.pruning.configuration.probe import Entries, Probe
from moeverify.pruning.plan.sites import update_sizes


@dataclass(frozen=True, eq=False)
class ConfigUpdate:
    """The new entries, and the skeletons built without and with them."""

    entries: Entries
    before: nn.Module
    after: nn.Module

    def sizes(self) -> dict[Attribute, Any]:
        """Whole-number attributes ``(module path, name)`` that change, with the new value."""
        return {key: value for key, value in self._changes.items() if _is_size(value)}

    def constants(self) -> dict[Attribute, tuple[float, float]]:
        """Floating-point attributes that change, old and new: constants derived from a size."""
        modules, changes = dict(self.before.named_modules()), self._changes.items()
        return {(path, n): (getattr(modules[path], n), v) for (path, n), v in changes if isinstance(v, float)}

    @cached_property
    def _changes(self) -> dict[Attribute, Any]:
        return changed_attributes(self.before, self.after)


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(isinstance(v, int) for v in value)
    return isinstance(value, int)


def plan_update(probe: Probe, entries: Entries, wanted: Shapes) -> ConfigUpdate:
    """The update for ``entries``, once the configuration builds the same sizes after it was saved and loaded.

    Raises ``PruningRefused`` otherwise. Example: a class that computes an entry anew while loading.
    """
    after = probe.build(entries)
    config: Any = after.get_submodule(probe.part).config
    loaded = doc.written_and_loaded(config)
    same = doc.document_of(loaded) == doc.document_of(config)  # it builds the same then
    shapes = shapes_of(after if same else probe.built_from(loaded))
    inside = [name for name in wanted if name in probe.base]
    wrong = [name for name in inside if shapes.get(name) != wanted[name]]
    if wrong:
        raise PruningRefused(
            f"{type(config).__name__} gives {wrong[0]} another shape after saving and loading "
            f"({list(shapes.get(wrong[0], ()))}, not {list(wanted[wrong[0]])}); leave its role out (a ratio of 0)"
        )
    _shape_as_wanted(after, {name: shape for name, shape in wanted.items() if name not in probe.base})
    return ConfigUpdate(entries, probe.original, after)


def _shape_as_wanted(built: nn.Module, wanted: Shapes) -> None:
    """Give parameters outside of the configured part, which no configuration builds, their new shapes in ``built``."""
    if not wanted:
        return
    for name, tensor in (*built.named_parameters(), *built.named_buffers()):
        if name in wanted and tuple(tensor.shape) != wanted[name]:
            tensor.data = tensor.data.new_empty(wanted[name])
    update_sizes(built)


def apply_update(model: nn.Module, update: ConfigUpdate, *, constants: bool = True) -> None:
    """Write new entries into a pruned model's configuration, and new sizes into its modules, in place.

    With ``constants=False``, attributes that are derived from a size keep their old values.
    """
    before, after = dict(update.before.named_modules()), dict(update.after.named_modules())
    done: set[int] = set()
    for path, module in model.named_modules():
        if path not in before:
            continue
        for name, config in vars(module).items():
            if hasattr(config, "to_dict") and id(config) not in done:
                old, new = getattr(before[path], name, None), getattr(after[path], name, None)
                if type(old) is type(new) is type(config):
                    _copy_changes(config, old, new, done)
    if constants:
        set_constants(model, update.constants())
    for (path, name), value in update.sizes().items():
        module = model.get_submodule(path)
        if hasattr(module, name):  # not so where the user put in another layer
            setattr(module, name, value)


def _copy_changes(config: Any, old: Any, new: Any, done: set[int]) -> None:
    done.add(id(config))
    for key, value in vars(new).items():
        previous = vars(old).get(key)
        if hasattr(value, "to_dict") and hasattr(vars(config).get(key), "to_dict"):
            if id(vars(config)[key]) not in done:
                _copy_changes(vars(config)[key], previous, value, done)
        elif key not in vars(old) or previous != value:
            vars(config)[key] = copy.deepcopy(value)


def set_constants(model: nn.Module, changes: Mapping[Attribute, tuple[float, float]]) -> None:
    """Give attributes, and the unsaved buffers that repeat them, their new values."""
    for (path, name), (old, new) in changes.items():
        module = model.get_submodule(path)
        setattr(module, name, new)
        for buffer in companions_of(module, old):
            buffer.fill_(new)


def companions_of(module: nn.Module, value: float) -> list[torch.Tensor]:
    """Unsaved buffers of one number that repeat a constant."""
    return [
        buffer
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
        and buffer.numel() == 1
        and math.isclose(float(buffer), value, rel_tol=1e-2)
    ]

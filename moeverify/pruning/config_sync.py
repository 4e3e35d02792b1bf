"""Configuration in step with the weights, without a table per architecture (G10).

On the meta device one integer entry of the configuration is doubled at a time and the model rebuilt: the parameters
whose shape changes tell what the entry means. After that the entries that express a plan are known, and a skeleton
built from the updated configuration tells every shape and every module's size attributes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.plan import Plan

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ConfigUpdate:
    """New values of configuration entries, and of module attributes (``path -> {attribute: value}``)."""

    entries: Mapping[str, Any]
    attributes: Mapping[str, Mapping[str, Any]]


def has_config(model: nn.Module) -> bool:
    """Whether the model is rebuilt from a configuration, as transformers' models are."""
    return hasattr(model, "config") and hasattr(model.config, "to_dict") and hasattr(model, "save_pretrained")


def skeleton(model: nn.Module, config: Any) -> nn.Module:
    """The model's class built from ``config`` on the meta device: shapes and attributes, no memory."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))


def shapes_of(model: nn.Module) -> Shapes:
    """Shapes of all parameters and buffers by name."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _mismatches(shapes: Shapes, expected: Shapes) -> list[str]:
    return [name for name in expected if shapes.get(name) != expected[name]]


def _try(model: nn.Module, config: Any) -> Shapes | None:
    try:
        return shapes_of(skeleton(model, config))
    except Exception:  # a configuration that the architecture does not accept tells nothing
        return None


def _pin_head_dim(model: nn.Module, config: Any) -> dict[str, int]:
    """Say explicitly what the architecture derives from the hidden size, so that pruning does not change it."""
    if getattr(config, "head_dim", None) is not None:
        return {}
    sizes = {m.head_dim for m in model.modules() if isinstance(getattr(m, "head_dim", None), int)}
    if len(sizes) != 1:
        return {}
    (size,) = sizes
    return {"head_dim": size}


def _integer_entries(config: Any) -> dict[str, int]:
    return {
        key: value
        for key, value in config.to_dict().items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 1
    }


def plan_config(model: nn.Module, plan: Plan) -> ConfigUpdate:
    """Find the configuration that expresses ``plan``.

    Raises ``PruningRefused``, naming the parameters, if no entry of the configuration can; nothing is changed.
    """
    before = shapes_of(model)
    expected = {name: plan.shape(name, shape) for name, shape in before.items()}
    config = copy.deepcopy(model.config)
    original = skeleton(model, config)
    if wrong := _mismatches(shapes_of(original), before):
        raise PruningRefused(
            f"the model's weights do not agree with its own configuration ({wrong[0]}); load or build it afresh"
        )
    entries: dict[str, Any] = {}
    pinned = _pin_head_dim(model, config)
    for key, value in pinned.items():
        setattr(config, key, value)
    if pinned and _try(model, config) == before:
        entries.update(pinned)
    elif pinned:
        config = copy.deepcopy(model.config)
    changed = {(n, d) for n in before for d, (a, b) in enumerate(zip(before[n], expected[n], strict=True)) if a != b}
    candidates = {}
    for key, value in _integer_entries(config).items():
        if key in entries:
            continue
        trial = copy.deepcopy(config)
        setattr(trial, key, 2 * value)
        shapes = _try(model, trial)
        if shapes is None or shapes.keys() != before.keys():
            continue
        grown = {(n, d): shapes[n][d] - size for n in before for d, size in enumerate(before[n])}
        touched = {place: more for place, more in grown.items() if more}
        if touched and touched.keys() <= changed:
            candidates[key] = touched
    # The entry that explains most goes first; one that only repeats what another says changes nothing and is dropped.
    left = _mismatches(before, expected)
    for key, touched in sorted(candidates.items(), key=lambda item: -len(item[1])):
        value = getattr(config, key)
        # A size may be the entry times something plus something else (latent plus rotary channels): go by its growth.
        values = {value + value * (expected[n][d] - before[n][d]) / more for (n, d), more in touched.items()}
        if len(values) != 1 or not (new := values.pop()).is_integer():
            continue
        trial = copy.deepcopy(config)
        setattr(trial, key, int(new))
        shapes = _try(model, trial)
        if shapes is None:
            continue
        remaining = _mismatches(shapes, expected)
        if len(remaining) < len(left) or _closer(shapes, _try(model, config) or before, expected):
            config, left = trial, remaining
            entries[key] = int(new)
    if left:
        raise PruningRefused(
            f"no entry of {type(config).__name__} expresses the pruned shape {list(expected[left[0]])} of {left[0]} "
            f"({len(left)} parameters in all); leave that class out, or prune it alike in every layer"
        )
    return ConfigUpdate(entries, _attributes(original, skeleton(model, config)))


def _closer(shapes: Shapes, previous: Shapes, expected: Shapes) -> bool:
    """Whether more single dimensions agree than before (a weight may need two entries)."""

    def agreeing(candidate: Shapes) -> int:
        return sum(a == b for n in expected for a, b in zip(candidate[n], expected[n], strict=True))

    return agreeing(shapes) > agreeing(previous)


def _attributes(before: nn.Module, after: nn.Module) -> dict[str, dict[str, Any]]:
    """Plain attributes that differ between two skeletons, by module path.

    Raises ``PruningRefused`` if a constant that is not a size would change with the configuration.
    """
    old_modules = dict(before.named_modules())
    changes: dict[str, dict[str, Any]] = {}
    for path, module in after.named_modules():
        old = vars(old_modules[path])
        for name, value in vars(module).items():
            if name.startswith("_") or name not in old or old[name] == value:
                continue
            if isinstance(value, float):
                raise PruningRefused(
                    f"{path or 'the model'}.{name} is derived from a size and would change from {old[name]} to {value} "
                    "on reload; leave the hidden size out of the pruning"
                )
            if isinstance(value, int) or (isinstance(value, tuple) and all(isinstance(v, int) for v in value)):
                changes.setdefault(path, {})[name] = value
    return changes


def apply_config(model: nn.Module, update: ConfigUpdate) -> None:
    """Write the new entries and attributes into the model and its configuration."""
    for key, value in update.entries.items():
        setattr(model.config, key, value)  # type: ignore[union-attr]
    for path, attributes in update.attributes.items():
        module = model.get_submodule(path)
        for name, value in attributes.items():
            setattr(module, name, value)

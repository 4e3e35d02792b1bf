"""A model built from a configuration on the meta device: shapes and attributes, no memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

try:
    from transformers.initialization import no_init_weights as _no_initial_values
except ImportError:  # only a saving of time; on the meta device there is nothing to fill
    from contextlib import nullcontext as _no_initial_values  # type: ignore[assignment]

from moeverify.models.element_by_element import CheapResults

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = dict[str, tuple[int, ...]]
Attribute = tuple[str, str]  # (module, name)
PlainAttributes = Mapping[str, Mapping[str, Any]]
_PLAIN = (int, float, str, tuple, list, type(None))


def has_config(model: nn.Module) -> TypeGuard[PreTrainedModel]:
    """Whether the model is rebuilt from a configuration, as transformers' models are."""
    return hasattr(model, "config") and hasattr(model.config, "to_dict") and hasattr(model, "save_pretrained")


def configured_part(model: nn.Module) -> str | None:
    """The path of the one module that is rebuilt from a configuration: the model itself (""), or one that it wraps.

    ``None`` if there is none, or several side by side.
    """
    result = list(_outermost_configured(model, ""))
    return result[0] if len(result) == 1 else None


def _outermost_configured(module: nn.Module, path: str) -> Iterator[str]:
    if has_config(module):
        yield path
        return
    for name, child in module.named_children():
        yield from _outermost_configured(child, f"{path}.{name}" if path else name)


def without_initial_values() -> AbstractContextManager[None]:
    """A context in which transformers fills no weights."""
    return _no_initial_values()


def skeleton(model: nn.Module, config: Any) -> nn.Module:
    """The model's class built from ``config`` on the meta device."""
    with torch.device("meta"), _no_initial_values(), CheapResults():
        built: Any = type(model)(copy.deepcopy(config))
    if hasattr(built, "tie_weights"):
        built.tie_weights()  # left out together with the initial values
    return built


def shapes_of(model: nn.Module) -> Shapes:
    """Shapes of all parameters and buffers by name, as ``named_parameters`` and ``named_buffers`` give them."""
    modules = list(model.named_modules())  # one walk for both
    result: Shapes = {}
    for kind in ("_parameters", "_buffers"):
        seen = set[int]()
        for path, module in modules:
            for name, tensor in getattr(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    result[f"{path}.{name}" if path else name] = tuple(tensor.shape)
    return result


def plain_attributes(model: nn.Module) -> PlainAttributes:
    """Public attributes that are numbers, names or lists of them, by the path of each module."""
    return {
        path: {n: v for n, v in vars(module).items() if not n.startswith("_") and isinstance(v, _PLAIN)}
        for path, module in model.named_modules()
    }


def changed_attributes(before: nn.Module | PlainAttributes, after: nn.Module) -> dict[Attribute, Any]:
    """Plain public attributes that differ between two builds, with the new value."""
    known = plain_attributes(before) if isinstance(before, nn.Module) else before
    changes = {}
    for path, module in after.named_modules():
        now = vars(module)
        for name, was in known.get(path, {}).items():
            value = now.get(name, was)
            if value is not was and isinstance(value, _PLAIN) and value != was:
                changes[path, name] = value
    return changes

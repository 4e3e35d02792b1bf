"""Layers that repeat, and the few representatives of each kind that a shortened model runs or builds.

Layers of one kind have modules of the same types with the same attributes and shapes, apart from their own number. They
have the same entries in the configuration's lists by layer. Representatives are the first two and the last of a kind,
so that rules by depth still show. Examples: "every other layer", or a scale that grows with depth.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

# A list with fewer layers is not shortened.
_FEW = 6
_INTERNAL = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None))
# One attribute of a module inside of a layer.
_Attribute = tuple[str, str]


def representative_layers(model: nn.Module, other: nn.Module, apart: Collection[str] = ()) -> dict[str, list[int]]:
    """Numbers of the representatives in each outermost list of layers, by the path of the list.

    ``other`` is the same model in other sizes: layers are alike if they are so in both. ``apart`` are paths of lists
    whose modules do not run in turn, such as experts. Left out: lists with more representatives than other layers.
    """
    found = {}
    for path, groups in alike_layers((model, other), apart).items():
        kept = sorted(number for group in groups for number in representatives(group))
        if 2 * len(kept) <= sum(map(len, groups)):
            found[path] = kept
    return found


def representatives(group: Sequence[int]) -> list[int]:
    """Representatives of the layers of one kind: the first two and the last."""
    return sorted({*group[:2], group[-1]})


def alike_layers(models: Sequence[nn.Module], apart: Collection[str] = ()) -> dict[str, list[list[int]]]:
    """Numbers of the layers of each kind, by the path of each outermost list of layers; short lists are left out.

    Layers are of one kind if they are so in each of ``models``, the same model in several sizes.
    """
    found = {}
    for path, layers in _outermost_lists(models[0]):
        if path in apart or len(layers) < _FEW:
            continue
        lists = [layers, *(model.get_submodule(path) for model in models[1:])]
        if any(not isinstance(one, nn.ModuleList) or len(one) != len(layers) for one in lists):
            continue
        kinds = [_kinds(model, one) for model, one in zip(models, lists, strict=True)]
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number, kind in enumerate(zip(*kinds, strict=True)):
            groups[kind].append(number)
        found[path] = list(groups.values())
    return found


@contextlib.contextmanager
def shortened(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """A context in which the model has only the layers ``kept``, under their own numbers."""
    lists: list[Any] = [model.get_submodule(path) for path in kept]
    whole = [layers._modules for layers in lists]
    try:
        for layers, numbers in zip(lists, kept.values(), strict=True):
            layers._modules = {str(number): layers._modules[str(number)] for number in numbers}
        yield
    finally:
        for layers, modules in zip(lists, whole, strict=True):
            layers._modules = modules


def _outermost_lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        inside = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield inside, child
        else:
            yield from _outermost_lists(child, inside)


def _kinds(model: nn.Module, layers: Any) -> list[Hashable]:
    """One key per layer, equal for layers of one kind."""
    attributes = [dict(_attributes(layer)) for layer in layers]
    shared = attributes[0].keys()
    numbers = {key for key in shared if all(a.get(key) == n for n, a in enumerate(attributes))}
    lists = [values for values in _lists(model) if len(values) == len(layers)]
    return [
        (
            tuple((key, value) for key, value in here.items() if key not in numbers),
            tuple(repr(values[number]) for values in lists),
        )
        for number, here in enumerate(attributes)
    ]


def _attributes(layer: nn.Module) -> Iterator[tuple[_Attribute, Hashable]]:
    """Types, tensors and attributes of all modules of a layer; an object that is not plain data equals only itself."""
    for path, module in layer.named_modules():
        yield (path, "type of module"), id(type(module))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield (path, f"tensor {name}"), (tuple(tensor.shape), tensor.dtype)
        for name, value in vars(module).items():
            if name not in _INTERNAL:
                yield (path, name), _comparable(value)
            elif name.endswith("hooks") and value:
                yield (path, name), id(module)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return tuple(_comparable(part) for part in value)
    return id(value)


def _lists(model: nn.Module) -> Iterator[Sequence[Any]]:
    """Every list in the configurations of a model."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict"):
            yield from _lists_in(config.to_dict())
            return


def _lists_in(document: Any) -> Iterator[Sequence[Any]]:
    if isinstance(document, Mapping):
        for value in document.values():
            yield from _lists_in(value)
    elif isinstance(document, list | tuple):
        yield document
        for value in document:
            yield from _lists_in(value)

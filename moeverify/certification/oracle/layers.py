"""Layers of a large model that are run: one of each kind, the first, the last and some between."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import nn

from moeverify.certification.oracle.reference import LeftOut

LEAST, MOST = 4, 8


@dataclass(frozen=True)
class LayerSample:
    """``numbers`` of the list ``path`` are run, of ``count`` layers."""

    path: str
    numbers: tuple[int, ...]
    count: int

    @property
    def whole(self) -> bool:
        """Whether every layer runs."""
        return len(self.numbers) == self.count

    def __str__(self) -> str:
        return f"layers {', '.join(map(str, self.numbers))} of {self.count}"


def sample_layers(model: nn.Module, seed: int = 0) -> LayerSample:
    """Choose the layers of the longest list of large modules. Raises nothing: a model without one runs whole."""
    path = layer_list(model)
    if path is None:
        return LayerSample("", (), 0)
    layers = model.get_submodule(path)
    kinds: dict[object, int] = {}
    for number, layer in enumerate(layers.children()):
        kinds.setdefault(_kind(layer), number)
    count = len(list(layers.children()))
    chosen = dict.fromkeys([0, count - 1, *kinds.values()])
    rest = [n for n in np.random.default_rng(seed).permutation(count).tolist() if n not in chosen]
    numbers = [*list(chosen)[:MOST], *rest][: max(LEAST, min(len(chosen), MOST))]
    return LayerSample(path, tuple(sorted(numbers)), count)


def layer_list(model: nn.Module) -> str | None:
    """The path of the list, outside of any other list, that holds the most values; ``None`` without a list."""
    outer: dict[str, int] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(path.startswith(other + ".") for other in outer):
            outer[path] = sum(parameter.numel() for parameter in module.parameters())
    return max(outer, key=lambda path: outer[path], default=None)


def leave_out(model: nn.Module, path: str, numbers: Collection[int]) -> None:
    """Replace the layers of a list that are not in ``numbers`` by layers that return their input, in place.

    ``path``: the list of layers in ``model``.
    """
    layers = model.get_submodule(path) if path else nn.ModuleList()
    assert isinstance(layers, nn.ModuleList)
    for number, layer in enumerate(layers):
        if number not in numbers and not isinstance(layer, LeftOut):
            layers[number] = LeftOut(layer)


def runs(name: str, path: str, numbers: Collection[int]) -> bool:
    """Whether a module lies in a layer that runs, or in none."""
    if not path or not name.startswith(path + "."):
        return True
    return int(name[len(path) + 1 :].split(".")[0]) in numbers


def _kind(layer: nn.Module) -> object:
    """Kind of a layer: classes, names and shapes of its parts, and the values of their own attributes."""
    parts = tuple((name, type(module).__name__) for name, module in layer.named_modules())
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in layer.named_parameters())
    own = tuple(sorted((k, v) for k, v in vars(layer).items() if isinstance(v, str | bool)))
    return parts, shapes, own

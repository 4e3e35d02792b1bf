"""Layers that the trace does not look into: who registered a pruning function for one knows what its channels are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.coupling.relations import Operation, Relations

INPUTS, OUTPUTS = "::in", "::out"


@dataclass(frozen=True)
class Opaque:
    """Channel counts of a layer's inputs and outputs (``None``: it has none), and whether they are the same ones."""

    inputs: int | None
    outputs: int | None
    tied: bool


class Recorder(Protocol):
    """What of the trace's recorder is needed here."""

    relations: Relations
    modules: list[str]
    paused: int
    tensors: dict[str, tuple[int, ...]]
    touched: set[str]

    def dims_of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """Dimensions of a tensor."""

    def read(self, tensor: torch.Tensor) -> None:
        """Note that a tensor was used."""

    def produce(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """Register a tensor that the layer returned."""


def channel_axis(tensor: torch.Tensor, channels: int | None) -> int | None:
    """The axis of ``channels``: the second of an image-like tensor, else the last; ``None`` if neither fits."""
    order = (1, -1) if tensor.dim() >= 4 else (-1, 1)
    for axis in order:
        if channels is not None and -tensor.dim() <= axis < tensor.dim() and tensor.shape[axis] == channels > 1:
            return axis % tensor.dim()
    return None


@contextlib.contextmanager
def opaque_layers(modules: Mapping[str, nn.Module], recorder: Recorder, layers: Mapping[str, Opaque]) -> Iterator[None]:
    """While the forward runs, record each of ``layers`` as one operation on its channels.

    A layer ``name`` gets the dimensions ``name::in`` and ``name::out`` among the trace's tensors. All other dimensions
    of what enters and leaves it are frozen, and so are its own parameters: its pruning function cuts them.
    """
    handles = []
    for name, layer in layers.items():
        for key, size in ((INPUTS, layer.inputs), (OUTPUTS, layer.outputs)):
            recorder.tensors[name + key] = recorder.relations.new_dims([size or 1])
        if layer.tied:
            recorder.relations.equal(recorder.tensors[name + INPUTS][0], recorder.tensors[name + OUTPUTS][0])
        for parameter, _ in modules[name].named_parameters():
            path = f"{name}.{parameter}"
            recorder.touched.add(path)
            recorder.relations.freeze_all(recorder.tensors.get(path, ()), f"{name} is cut by its own pruning function")
        handles += _watch(modules[name], name, layer, recorder)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(module: nn.Module, name: str, layer: Opaque, recorder: Recorder) -> list[Any]:
    def relate(value: Any, channels: int | None, site: int, dims_of: Any) -> None:
        for tensor in tree_leaves(value):
            if not isinstance(tensor, torch.Tensor):
                continue
            dims = dims_of(tensor)
            axis = channel_axis(tensor, channels)
            for position, dim in enumerate(dims):
                if position == axis:
                    recorder.relations.equal(dim, site)
                else:
                    recorder.relations.freeze(dim, f"{name} is not looked into")

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not recorder.paused:
            recorder.relations.operations.append(Operation("(layer with its own pruning function)", name))
            relate((args, kwargs), layer.inputs, recorder.tensors[name + INPUTS][0], recorder.dims_of)
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    recorder.read(tensor)
        recorder.paused += 1

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        recorder.paused -= 1
        if not recorder.paused:
            recorder.relations.operations.append(Operation("(layer with its own pruning function)", name))
            relate(output, layer.outputs, recorder.tensors[name + OUTPUTS][0], recorder.produce)

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, always_call=False),
    ]

"""Layers that the trace does not look into: a pruning function, registered by the user, defines their channels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moeverify.coupling.relations import Operation, Relations
from moeverify.models.containers import leaves

INPUTS, OUTPUTS = "::in", "::out"


@dataclass(frozen=True)
class Opaque:
    """A layer with its own pruning function: ``inputs`` and ``outputs`` count its channels.

    ``None``: taken from the tensors that enter or leave. ``tied``: inputs and outputs are the same channels.
    """

    inputs: int | None
    outputs: int | None
    tied: bool


class Recorder(Protocol):
    """Part of the trace's recorder that is needed here."""

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


def channel_axis(tensor: torch.Tensor, channels: int) -> int | None:
    """The axis of ``channels``: the second of an image-like tensor, else the last; ``None`` if neither fits."""
    order = (1, -1) if tensor.dim() >= 4 else (-1, 1)
    for axis in order:
        if -tensor.dim() <= axis < tensor.dim() and tensor.shape[axis] == channels > 1:
            return axis % tensor.dim()
    return None


class _Channels:
    """The dimensions ``name::in`` and ``name::out`` of one opaque layer.

    A side whose count is not given gets the one of the first tensor of numbers that passes there.
    """

    def __init__(self, name: str, layer: Opaque, recorder: Recorder) -> None:
        self._name = name
        self._layer = layer
        self._recorder = recorder
        for side, count in ((INPUTS, layer.inputs), (OUTPUTS, layer.outputs)):
            if count:
                self._register(side, count)

    def _register(self, side: str, count: int) -> None:
        tensors, relations = self._recorder.tensors, self._recorder.relations
        (dim,) = tensors[self._name + side] = relations.new_dims([count])
        other = tensors.get(self._name + (INPUTS if side == OUTPUTS else OUTPUTS))
        if self._layer.tied and other is not None:
            relations.equal(dim, other[0])

    def axis(self, side: str, tensor: torch.Tensor) -> int | None:
        """The axis of the channels of ``tensor``, which passes on this side."""
        known = self._recorder.tensors.get(self._name + side)
        if known is None:
            if not tensor.is_floating_point() or not tensor.dim():
                return None
            count = tensor.shape[1 if tensor.dim() >= 4 else -1]
            self._register(side, count)
        else:
            count = self._recorder.relations.sizes[known[0]]
        return channel_axis(tensor, count)

    def dim(self, side: str) -> int:
        """The dimension on one side."""
        return self._recorder.tensors[self._name + side][0]

    def close(self) -> None:
        """Register a side that no tensor passed."""
        for side in (INPUTS, OUTPUTS):
            if self._name + side not in self._recorder.tensors:
                self._register(side, 1)


@contextlib.contextmanager
def opaque_layers(modules: Mapping[str, nn.Module], recorder: Recorder, layers: Mapping[str, Opaque]) -> Iterator[None]:
    """While the forward runs, record each of ``layers`` as one operation on its channels.

    A layer ``name`` gets the dimensions ``name::in`` and ``name::out`` among the trace's tensors. All other dimensions
    of what enters and leaves it are frozen, and so are its own parameters: its pruning function cuts them.
    """
    handles = []
    channels = [_Channels(name, layer, recorder) for name, layer in layers.items()]
    for name, of_layer in zip(layers, channels, strict=True):
        for parameter, _ in modules[name].named_parameters():
            path = f"{name}.{parameter}"
            recorder.touched.add(path)
            recorder.relations.freeze_all(recorder.tensors.get(path, ()), f"{name} is cut by its own pruning function")
        handles += _watch(modules[name], name, of_layer, recorder)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for of_layer in channels:
            of_layer.close()


def _watch(module: nn.Module, name: str, channels: _Channels, recorder: Recorder) -> list[Any]:
    def relate(value: Any, side: str, dims_of: Any) -> None:
        for tensor in leaves(value):
            if not isinstance(tensor, torch.Tensor):
                continue
            axis = channels.axis(side, tensor)
            for position, dim in enumerate(dims_of(tensor)):
                if position == axis:
                    recorder.relations.equal(dim, channels.dim(side))
                else:
                    recorder.relations.freeze(dim, f"{name} is not looked into")

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not recorder.paused:
            recorder.relations.operations.append(Operation("(layer with its own pruning function)", name))
            relate((args, kwargs), INPUTS, recorder.dims_of)
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    recorder.read(tensor)
        recorder.paused += 1

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        recorder.paused -= 1
        if not recorder.paused:
            recorder.relations.operations.append(Operation("(layer with its own pruning function)", name))
            relate(output, OUTPUTS, recorder.produce)

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, always_call=False),
    ]

"""Layers of torch whose attributes give other sizes than their tensors have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class OwnSizes(NamedTuple):
    """``says``: the shape of a layer's weight by the layer's attributes. ``holds``: the shape that it has."""

    says: tuple[int, ...]
    holds: tuple[int, ...]


def contradictions(model: nn.Module) -> Iterator[tuple[str, OwnSizes]]:
    """Layers whose attributes do not fit their tensors, by path."""
    for path, module in model.named_modules():
        sizes = _own_sizes(module)
        if sizes is not None and sizes.says != sizes.holds:
            yield path, sizes


def _own_sizes(module: nn.Module) -> OwnSizes | None:
    """Both shapes of a layer of torch; ``None`` for other modules, and for those without such a tensor."""
    if isinstance(module, nn.Linear):
        return _both((module.out_features, module.in_features), module.weight)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _both((module.num_embeddings, module.embedding_dim), module.weight)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return _both(tuple(module.normalized_shape), module.weight)
    if isinstance(module, nn.GroupNorm):
        return _both((module.num_channels,), module.weight)
    if isinstance(module, _NormBase):
        return _both((module.num_features,), module.weight if module.weight is not None else module.running_mean)
    if isinstance(module, _ConvNd):
        return _of_convolution(module)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _of_recurrence(module)
    if isinstance(module, nn.MultiheadAttention):
        return _both((module.embed_dim, module.num_heads * module.head_dim), module.out_proj.weight)
    return None


def _both(says: tuple[int, ...], tensor: torch.Tensor | None) -> OwnSizes | None:
    return None if tensor is None else OwnSizes(says, tuple(tensor.shape))


def _of_convolution(module: _ConvNd) -> OwnSizes:
    """The weight as if all groups lay in it side by side."""
    first, second = module.out_channels, module.in_channels
    if isinstance(module, _ConvTransposeNd):
        first, second = second, first
    shape = tuple(module.weight.shape)
    return OwnSizes((first, second, *module.kernel_size), (shape[0], shape[1] * module.groups, *shape[2:]))


def _of_recurrence(module: nn.RNNBase | nn.RNNCellBase) -> OwnSizes | None:
    """The weight of the inputs; those of several gates lie in its rows."""
    weight = getattr(module, "weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0")
    gates = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}.get(type(module).__name__)
    return None if gates is None else _both((gates * module.hidden_size, module.input_size), weight)

"""Sites where Torch-Pruning prunes a tensor's dimension: a layer or parameter, and the side of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


@dataclass(frozen=True)
class Site:
    """One side of a layer, or one axis of a parameter.

    ``target`` is the path of the layer or of the parameter. ``output``: side of the layer (``None`` for a parameter).
    ``axis``: the tensor's axis. ``repeats`` are the channel groups of a grouped convolution, whose weight holds each
    position of that axis once for all of them; ``span`` positions lie between two of them.
    """

    target: str
    is_layer: bool
    output: bool
    axis: int
    repeats: int = 1
    span: int = 0


def is_depthwise(module: nn.Module) -> bool:
    """A convolution with as many groups as channels: inputs and outputs are the same channels."""
    return isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels > 1


def layer_side(module: nn.Module, leaf: str, axis: int) -> bool | None:
    """Whether ``axis`` of the layer's tensor ``leaf`` is its outputs (``True``) or inputs (``False``).

    ``None`` if Torch-Pruning has no function for it.
    """
    if isinstance(module, nn.Linear):
        return {("weight", 0): True, ("bias", 0): True, ("weight", 1): False}.get((leaf, axis))
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs = 1 if module.transposed else 0
        return True if leaf == "bias" else {outputs: True, 1 - outputs: False}.get(axis)
    if isinstance(module, nn.Embedding):
        return True if (leaf, axis) == ("weight", 1) else None
    if isinstance(module, nn.LayerNorm):
        return True if axis == len(module.normalized_shape) - 1 else None
    return True if isinstance(module, _NORMS) else None


def site_of(model: nn.Module, name: str, axis: int) -> Site:
    """The site of ``axis`` of the parameter or buffer ``name``."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    side = layer_side(owner, leaf, axis)
    if side is None:
        return Site(name, False, True, axis)
    if isinstance(owner, nn.modules.conv._ConvNd) and owner.groups > 1 and leaf == "weight" and not is_depthwise(owner):
        inner_axis = 1  # a grouped weight holds only one group's channels along its second axis
        if axis == inner_axis:
            span = owner.weight.shape[1]
            return Site(owner_name, True, side, axis, owner.groups, span)
    return Site(owner_name, True, side, axis)


def update_sizes(model: nn.Module) -> None:
    """Bring the size attributes of torch's own layers in step with their weights."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            _update_recurrent(module)
        elif isinstance(module, nn.RNNCellBase):
            module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
        elif isinstance(module, nn.MultiheadAttention):
            _update_attention(module)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            # Without weights, running statistics alone have the size.
            held = module.weight if module.weight is not None else module.running_mean
            module.num_features = module.num_features if held is None else held.shape[0]
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.num_embeddings, module.embedding_dim = weight.shape
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, nn.modules.conv._ConvNd):
            _update_convolution(module)
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = weight.shape[0]
        elif isinstance(module, nn.PReLU):
            module.num_parameters = weight.shape[0]


def _update_attention(layer: nn.MultiheadAttention) -> None:
    """Heads keep their size, so their number follows the weights."""
    layer.embed_dim = layer.kdim = layer.vdim = layer.out_proj.weight.shape[0]
    if layer.in_proj_weight is None:
        layer.kdim, layer.vdim = layer.k_proj_weight.shape[1], layer.v_proj_weight.shape[1]
    layer.num_heads = layer.out_proj.weight.shape[1] // layer.head_dim


def _update_recurrent(layer: nn.RNNBase) -> None:
    weights: Any = layer  # PyTorch names them as it registers them
    layer.input_size = weights.weight_ih_l0.shape[1]
    gates = {"GRU": 3, "LSTM": 4}.get(layer.mode, 1)
    layer.hidden_size = weights.weight_ih_l0.shape[0] // gates
    layer.proj_size = weights.weight_hr_l0.shape[0] if layer.proj_size else 0


def _update_convolution(layer: nn.modules.conv._ConvNd) -> None:
    if is_depthwise(layer):
        if not layer.transposed and layer.weight.shape[0] != layer.out_channels:
            layer.in_channels = layer.in_channels // layer.out_channels * layer.weight.shape[0]
            layer.out_channels = layer.groups = layer.weight.shape[0]
        return
    first, second = layer.weight.shape[:2]
    if layer.transposed:
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.out_channels, layer.in_channels = first, second * layer.groups

"""Carry out a plan: slice every parameter and buffer, keep ties, modes and gradients' flags as they were."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from moeverify.pruning.plan import Plan


def slice_kept(values: torch.Tensor, dim: int, kept: np.ndarray) -> torch.Tensor:
    """``values`` with the positions ``kept`` along ``dim``; ``kept`` of shape ``[experts, n]`` holds one row for each
    position of dimension 0."""
    index = torch.as_tensor(kept, device=values.device)
    if index.dim() == 1:
        return values.index_select(dim, index)
    return torch.stack([values[e].index_select(dim - 1, row) for e, row in enumerate(index)])


def _set(model: nn.Module, name: str, value: torch.Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        setattr(owner, leaf, value)


def apply_plan(model: nn.Module, plan: Plan) -> None:
    """Prune ``model`` in place, one parameter after the other.

    Plain linear and embedding layers go through Torch-Pruning's functions; the rest is sliced here.
    """
    names: dict[int, list[str]] = defaultdict(list)
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        names[id(tensor)].append(name)
    aliases = {group[0]: group for group in names.values()}
    by_name: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for (name, dim), kept in plan.keep.items():
        by_name[name][dim] = kept
    lookup = dict(tensors)
    for name, cuts in by_name.items():
        tensor = lookup[name]
        owner = model.get_submodule(name.rpartition(".")[0])
        if type(owner) in (nn.Linear, nn.Embedding) and name.endswith(".weight"):
            for dim, kept in cuts.items():
                gone = np.setdiff1d(np.arange(tensor.shape[dim]), kept).tolist()
                _prune_layer(owner, dim, gone)
            new: torch.Tensor = owner.weight  # type: ignore[assignment]
            new.requires_grad_(tensor.requires_grad)
        elif type(owner) is nn.Linear and name.endswith(".bias"):
            continue  # Torch-Pruning cut it with the weight's outputs
        else:
            with torch.no_grad():
                sliced, gradient = tensor.detach(), tensor.grad
                for dim, kept in cuts.items():
                    sliced = slice_kept(sliced, dim, kept)
                    gradient = None if gradient is None else slice_kept(gradient, dim, kept)
            new = sliced.contiguous()
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
                new.grad = gradient
        for alias in aliases[name]:
            _set(model, alias, new)
    _update_sizes(model)


def _prune_layer(layer: nn.Module, dim: int, gone: list[int]) -> None:
    trains = None if getattr(layer, "bias", None) is None else layer.bias.requires_grad  # type: ignore[union-attr]
    with torch.no_grad():
        if isinstance(layer, nn.Embedding):
            tp.prune_embedding_out_channels(layer, gone)
        elif dim == 0:
            tp.prune_linear_out_channels(layer, gone)
        else:
            tp.prune_linear_in_channels(layer, gone)
    if trains is not None:
        layer.bias.requires_grad_(trains)  # type: ignore[union-attr]


def _update_sizes(model: nn.Module) -> None:
    """Bring the size attributes of torch's own layers in step with their weights."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = weight.shape
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.normalized_shape = tuple(weight.shape)

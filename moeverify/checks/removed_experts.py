"""Whole experts that a subject removed: who stayed, and the reference in which the others are never chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.routing import Change
from moeverify.roles import FoundRoles, MoELayer


def router_tensors(model: nn.Module, layer: MoELayer) -> dict[str, torch.Tensor]:
    """Tensors that hold one entry or row for each expert: router weights, biases, correction biases.

    A correction bias may sit on the MoE block instead of the router.
    """
    block = model.get_submodule(layer.name)
    prefix = layer.name + "." if layer.name else ""
    own = {prefix + n: t for n, t in (*block.named_parameters(recurse=False), *block.named_buffers(recurse=False))}
    for router in layer.routers:
        module = model.get_submodule(router)
        own |= {f"{router}.{n}": t for n, t in (*module.named_parameters(), *module.named_buffers())}
    return {name: tensor for name, tensor in own.items() if tensor.dim() and len(layer.experts) in tensor.shape}


def kept_experts(context: Context) -> dict[str, list[int]]:
    """For each MoE layer the experts that stayed, as the router's rows say."""
    result = {}
    for layer in context.roles.layers:
        stayed = list(range(len(layer.experts)))
        for name, tensor in router_tensors(context.original, layer).items():
            dim = expert_dim(tensor, len(layer.experts))
            if tensor.dim() == 2 and (found := context.kept.get((name, dim))) is not None:
                stayed = [int(p) for p in found.positions.ravel()]
        result[layer.name] = stayed
    return result


def expert_dim(tensor: torch.Tensor, experts: int) -> int:
    """The dimension of a router tensor that counts experts: the first of that size."""
    return list(tensor.shape).index(experts)


def forbid(model: nn.Module, roles: FoundRoles, stayed: Mapping[str, list[int]]) -> dict[str, Change]:
    """Selection scores of removed experts at minus infinity: biases of ``model`` in place, logits by what is returned.

    Minus infinity before softmax or sigmoid leaves a removed expert neither choice nor weight.
    """
    changes: dict[str, Change] = {}
    for layer in roles.layers:
        gone = sorted(set(range(len(layer.experts))) - set(stayed[layer.name]))
        if not gone:
            continue
        for tensor in router_tensors(model, layer).values():
            if tensor.dim() == 1 and tensor.is_floating_point():
                with torch.no_grad():
                    tensor[gone] = float("-inf")
        changes[layer.name] = _never(gone)
    return changes


def _never(gone: list[int]) -> Change:
    def change(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.as_tensor(gone, device=logits.device), float("-inf"))

    return change

"""Whole experts that a subject removed: who stayed, and the reference in which the others are never chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.router_tensors import expert_dim, experts_now, router_tensors
from moeverify.checks.evidence.routing import Change
from moeverify.models.roles import FoundRoles


def kept_experts(context: Context) -> dict[str, list[int]]:
    """For each MoE layer the experts that stayed, as the router's rows say."""
    result = {}
    for layer in context.roles.layers:
        stayed = list(range(len(layer.experts)))
        if experts_now(context.pruned, layer) == len(stayed):
            result[layer.name] = stayed
            continue
        for name, tensor in router_tensors(context.original, layer).items():
            dim = expert_dim(tensor, len(layer.experts))
            if tensor.dim() == 2 and (found := context.kept.get((name, dim))) is not None:
                stayed = [int(p) for p in found.positions.ravel() if p < len(layer.experts)]
        result[layer.name] = stayed
    return result


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

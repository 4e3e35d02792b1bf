"""Whole experts that a subject removed: who stayed, and the reference in which the others are never chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.forces import Change
from moeverify.checks.evidence.kept import tensors_of
from moeverify.checks.evidence.router_tensors import router_axes, router_tensors
from moeverify.checks.evidence.stayed import former_ids
from moeverify.models.roles import FoundRoles


def kept_experts(context: Context) -> dict[str, list[int]]:
    """For each MoE layer the experts that stayed, by the router's rows."""
    return dict(context.stayed)


def route_as_pruned(model: nn.Module, context: Context) -> None:
    """Write into the original's tables of ids what the pruned model's tables have in place of removed experts."""
    tensors, after = tensors_of(model), tensors_of(context.pruned)
    for name, layer in context.id_tables.items():
        former = former_ids(after[name], context.stayed[layer.name]) if name in after else None
        if former is not None and former.shape == tensors[name].shape:
            with torch.no_grad():
                tensors[name].copy_(former)


def forbid(model: nn.Module, roles: FoundRoles, stayed: Mapping[str, list[int]]) -> dict[str, Change]:
    """Selection scores of removed experts at minus infinity: biases of ``model`` in place, logits by what is returned.

    Minus infinity before softmax or sigmoid leaves a removed expert neither choice nor weight.
    """
    changes: dict[str, Change] = {}
    for layer in roles.layers:
        gone = sorted(set(range(len(layer.experts))) - set(stayed[layer.name]))
        if not gone:
            continue
        axes = router_axes(model, layer)
        for name, tensor in router_tensors(model, layer).items():
            if tensor.is_floating_point() and sum(size > 1 for size in tensor.shape) == 1:  # a vector of any shape
                with torch.no_grad():
                    tensor.index_fill_(axes[name], torch.tensor(gone, device=tensor.device), float("-inf"))
        changes[layer.name] = _never(gone)
    return changes


def _never(gone: list[int]) -> Change:
    def change(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.as_tensor(gone, device=logits.device), float("-inf"))

    return change

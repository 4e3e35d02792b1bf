"""Whole experts that a subject removed: who stayed, and the reference in which the others are never chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.agreement import (
    OF_ALL_EXPERTS,
    OF_EACH_EXPERT,
    Outputs,
    agreement,
    of_each_expert,
    single_numbers,
)
from moeverify.checks.evidence.forces import Change
from moeverify.checks.evidence.kept import tensors_of
from moeverify.checks.evidence.router_tensors import router_axes, router_tensors
from moeverify.checks.evidence.stayed import former_ids
from moeverify.checks.masked_conclusion import equal
from moeverify.checks.other_masks import held
from moeverify.checks.registry import Finding, inconclusive
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


def removed_numbers(roles: FoundRoles, stayed: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Numbers of the removed experts of each layer that lost some."""
    gone = {x.name: sorted(set(range(len(x.experts))) - set(stayed[x.name])) for x in roles.layers}
    return {name: numbers for name, numbers in gone.items() if numbers}


def forbid(model: nn.Module, roles: FoundRoles, stayed: Mapping[str, list[int]]) -> dict[str, Change]:
    """Selection scores of removed experts at minus infinity: biases of ``model`` in place, logits by what is returned.

    Minus infinity before softmax or sigmoid leaves a removed expert neither choice nor weight.
    """
    changes: dict[str, Change] = {}
    removed = removed_numbers(roles, stayed)
    for layer in roles.layers:
        if (gone := removed.get(layer.name)) is None:
            continue
        axes = router_axes(model, layer)
        for name, tensor in router_tensors(model, layer).items():
            if tensor.is_floating_point() and sum(size > 1 for size in tensor.shape) == 1:  # a vector of any shape
                with torch.no_grad():
                    tensor.index_fill_(axes[name], torch.tensor(gone, device=tensor.device), float("-inf"))
        changes[layer.name] = held(gone, float("-inf"))
    return changes


def set_apart(outputs: Sequence[Outputs], counts: Collection[tuple[int, int]], layers: int) -> Finding | None:
    """The finding where all outputs agree but those that follow the number of experts by what they are.

    ``outputs``: those of the pruned model, of the masked original and of the original. ``counts``: numbers of experts
    before and after. ``layers``: number of MoE layers.
    """
    got, expected, _ = outputs
    for names, reason in (
        (of_each_expert(got, expected, counts), OF_EACH_EXPERT),
        (single_numbers(got, layers), OF_ALL_EXPERTS),
    ):
        found = agreement(*({n: t for n, t in o.items() if n not in names} for o in outputs))
        if names and equal(found):
            return inconclusive(f"{names[0]} {reason}", relative_error=found.error)
    return None

"""Routed experts that stayed, and tables whose values are their ids, recovered from the two models alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.owners import owners
from moeverify.checks.evidence.router_tensors import experts_now, router_axes, router_tensors
from moeverify.models.roles import FoundRoles, MoELayer


def stayed_experts(
    original: nn.Module, pruned: nn.Module, roles: FoundRoles, kept: Mapping[tuple[str, int], Kept]
) -> dict[str, list[int]]:
    """For each MoE layer the experts that stayed, in their present order, by the router's rows.

    Experts without a router that has rows, such as a table of hashes, are known by their own values.
    """
    result = {}
    for layer in roles.layers:
        stayed = list(range(len(layer.experts)))
        if experts_now(pruned, layer) == len(stayed):
            result[layer.name] = stayed
            continue
        tensors, axes = router_tensors(original, layer), router_axes(original, layer)
        found = {
            n: rows for n in tensors if (rows := kept.get((n, axes[n]))) is not None and (rows.positions >= 0).all()
        }
        # The largest tensor tells best, a matrix: values of a bias may repeat, and noise weights are zero at first.
        for rows in (found[n] for n in sorted(found, key=lambda n: (found[n].exact, tensors[n].numel()))):
            stayed = [int(p) for p in rows.positions.ravel() if p < len(layer.experts)]
        by_content = () if found else experts_by_content(original, pruned, layer, kept).values()
        result[layer.name] = next((numbers for numbers in by_content if min(numbers) >= 0), stayed)
    return result


def id_tables(model: nn.Module, layer: MoELayer) -> dict[str, torch.Tensor]:
    """Integer tensors of a layer's block and routers, outside its experts, whose values may be ids of its experts."""
    count = len(layer.experts)
    outside = (*layer.holders, *layer.shared_experts)
    result = {}
    for path in (layer.name, *layer.routers):
        block = model.get_submodule(path)
        for name, tensor in (*block.named_parameters(prefix=path), *block.named_buffers(prefix=path)):
            whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
            if not whole or tensor.dim() == 0 or tensor.numel() < 2 or tensor.shape == (count,):
                continue
            if (
                not any(name.startswith(f"{p}.") for p in outside)
                and 0 <= int(tensor.min()) <= int(tensor.max()) < count
            ):
                result[name] = tensor
    return result


def former_ids(table: torch.Tensor, stayed: list[int]) -> torch.Tensor | None:
    """A pruned table of ids in the original's numbering; ``None`` if it names experts that are not there."""
    if int(table.min()) < 0 or int(table.max()) >= len(stayed):
        return None
    return torch.tensor(stayed, device=table.device)[table.long()].to(table.dtype)


def comparable_ids(
    before: torch.Tensor, after: torch.Tensor, stayed: list[int]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Two tables of expert ids in the original's numbering, fit to be compared; ``None`` if ids or shapes do not fit.

    In the original's table, ids of removed experts are replaced by the ids that the pruned table has in their place.
    """
    former = former_ids(after, stayed)
    if former is None or former.shape != before.shape:
        return None
    there = torch.isin(before, torch.tensor(stayed, device=before.device, dtype=before.dtype))
    return torch.where(there, before, former), former


def repeated_row(before: torch.Tensor, after: torch.Tensor) -> int | None:
    """First row of a table of expert ids that names an expert twice, where the original's row does not."""

    def repeats(table: torch.Tensor) -> torch.Tensor:
        ranked = table.reshape(-1, table.shape[-1]).sort(dim=-1).values
        return (ranked[:, 1:] == ranked[:, :-1]).any(-1)

    if before.dim() < 2:
        return None
    rows = (repeats(after) & ~repeats(before)).nonzero()
    return int(rows[0]) if len(rows) else None


def experts_by_content(
    original: nn.Module, pruned: nn.Module, layer: MoELayer, kept: Mapping[tuple[str, int], Kept]
) -> dict[str, list[int]]:
    """Experts by the values of a layer's own tensors, in their present order; by tensor or list of experts.

    An expert whose values fit none or several of the original's is -1; a tensor with ambiguous values is left out.
    """
    if layer.parts:
        found = owners(original, pruned, layer)
        return {layer.container: found} if any(number >= 0 for number in found) else {}
    result = {}
    for name in layer.stacks:
        entry = kept.get((name, 0))
        if layer.fused and entry is not None and entry.exact and entry.positions.ndim == 1:
            result[name] = [int(p) for p in entry.positions if p < len(layer.experts)]
    return result

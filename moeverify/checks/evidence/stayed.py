"""Routed experts that stayed, and tables whose values are their ids, recovered from the two models alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.locate import bits
from moeverify.checks.evidence.router_tensors import experts_apart, experts_now, router_axes, router_tensors
from moeverify.models.moe_layer import last, parent
from moeverify.models.roles import FoundRoles, MoELayer


def stayed_experts(
    original: nn.Module, pruned: nn.Module, roles: FoundRoles, kept: Mapping[tuple[str, int], Kept]
) -> dict[str, list[int]]:
    """For each MoE layer the experts that stayed, in their present order, by the router's rows."""
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
        result[layer.name] = stayed
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
        found = [_owner(_tensors(pruned, paths), original, layer) for paths in experts_apart(pruned, layer)]
        return {layer.container: found} if any(number >= 0 for number in found) else {}
    result = {}
    for name in layer.stacks:
        entry = kept.get((name, 0))
        if layer.fused and entry is not None and entry.exact and entry.positions.ndim == 1:
            result[name] = [int(p) for p in entry.positions if p < len(layer.experts)]
    return result


def _owner(tensors: dict[str, torch.Tensor], original: nn.Module, layer: MoELayer) -> int:
    """The original expert that holds all values of an expert's largest parameter; -1 if not exactly one does."""
    if not tensors:
        return -1
    leaf = max(tensors, key=lambda name: tensors[name].numel())
    values = bits(tensors[leaf]).ravel()
    fits = []
    for number, paths in enumerate(layer.parts):
        theirs = _tensors(original, paths).get(leaf)
        if theirs is not None and theirs.dtype == tensors[leaf].dtype and np.isin(values, bits(theirs)).all():
            fits.append(number)
    return fits[0] if len(fits) == 1 else -1


def _tensors(model: nn.Module, paths: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Parameters of one expert, by the place of their module among the expert's and the name in it."""
    found: dict[str, torch.Tensor] = {}
    for place, path in enumerate(paths):
        held = model.get_submodule(parent(path))
        own = held._parameters.get(last(path))
        inner = {"": own} if own is not None else dict(held.get_submodule(last(path)).named_parameters())
        found |= {f"{place}.{name}": tensor for name, tensor in inner.items()}
    return found

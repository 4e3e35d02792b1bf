"""The base with everything masked that the keep map lacks; a correct pruning computes the same.

Channels are held at zero, norms see the kept ones only, removed experts are never chosen, removed layers are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.checks.evidence.forces import Change
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.masking import mask_removed
from moeverify.models.roles import MoELayer


def kept_positions(keep: KeepMap) -> dict[tuple[str, int], Kept]:
    """Positions that stayed of every dimension of the base that lost some, except for whole experts."""
    result: dict[tuple[str, int], Kept] = {}
    for (name, dim), slots in keep.structure.slots.items():
        if name not in keep.base or keep.to_pruned(name) is None:
            continue
        try:
            gone = [_removed(keep, slot.number, slot.positions) for slot in slots]
        except Unknown:
            continue
        size = keep.base[name][dim]
        known = [part for part in gone if part is not None]
        if len(known) == len(gone):
            lost = np.unique(np.concatenate([part.ravel() for part in known]))
            if len(lost):
                result[name, dim] = Kept(np.setdiff1d(np.arange(size), lost), True)
            continue
        rows = _rows(keep, name, dim, slots[0].number, slots[0].positions)
        if rows is not None:
            result[name, dim] = Kept(rows, True)
    for (name, dim), positions in keep.found.items():
        stayed = np.unique(positions)
        if len(stayed) < keep.base[name][dim]:
            result[name, dim] = Kept(stayed, True)
    return result


def _removed(keep: KeepMap, number: int, positions: np.ndarray) -> np.ndarray | None:
    """Positions that a class lost; ``None`` if each expert lost others."""
    if number not in keep.units:
        raise Unknown(f"class {number}")
    units = keep.units[number]
    if units.ndim == 2:
        return None
    gone: np.ndarray = positions[np.setdiff1d(np.arange(len(positions)), units)]
    return gone


def _rows(keep: KeepMap, name: str, dim: int, number: int, positions: np.ndarray) -> np.ndarray | None:
    """Kept positions of each base expert; those of a removed expert are arbitrary."""
    item, units = keep.structure.classes[number], keep.units[number]
    layer = keep.structure.moe_layer(item)
    if units.shape[1] == item.coupling.size or layer is None:
        return None
    everything, size = np.arange(keep.base[name][dim]), item.coupling.size
    experts = keep.experts[layer]
    if (name, dim) in item.in_turn:
        each = positions.reshape(size, item.experts, -1)
        lost = [each[np.setdiff1d(np.arange(size), units[a]), b].ravel() for a, b in enumerate(experts)]
        return np.setdiff1d(everything, np.concatenate(lost))
    rows = [np.setdiff1d(everything, positions[units.shape[1] :].ravel())] * keep.base[name][0]
    for after, before in enumerate(experts):
        rows[int(before)] = np.setdiff1d(everything, positions[np.setdiff1d(np.arange(size), units[after])].ravel())
    return np.stack(rows)


def mask(model: nn.Module, keep: KeepMap, pruned: nn.Module, *, unloaded: Collection[str] = ()) -> dict[str, Change]:
    """Mask ``model`` in place; what must happen to the logits of routers is returned by MoE layer.

    ``unloaded``: weights whose values are read from a file later; the reader masks them.
    """
    mask_removed(model, kept_positions(keep), pruned, unloaded=unloaded)
    changes: dict[str, Change] = {}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for number, layer in enumerate(keep.structure.roles.layers):
        gone = removed_experts(keep, number, layer)
        if not gone:
            continue
        for (name, dim), axis in keep.structure.axes.items():
            tensor = tensors.get(name)
            if axis.layer != number or tensor is None or name.rpartition(".")[0] in layer.holders:
                continue
            if _is_vector(tensor) and tensor.is_floating_point():
                _forbid(tensor, dim, gone)
        changes[layer.name] = _never(gone)
        _follow_tables(model, keep, pruned, number, layer)
    return changes


@torch.no_grad()
def _follow_tables(model: nn.Module, keep: KeepMap, pruned: nn.Module, number: int, layer: MoELayer) -> None:
    """Tables of expert numbers name the experts that the pruned folder names: those of removed ones were replaced."""
    theirs = dict(pruned.named_buffers()) | dict(pruned.named_parameters())
    experts = torch.as_tensor(keep.experts[number])
    for name, table in (*model.named_buffers(), *model.named_parameters()):
        other = theirs.get(keep.to_pruned(name) or "")
        if not name.startswith(layer.name + ".") or table.is_floating_point() or other is None:
            continue
        if table.dim() and other.shape == table.shape and int(other.max()) < len(experts):
            table.copy_(experts.to(table.device)[other.long()].to(table.dtype))


def removed_experts(keep: KeepMap, number: int, layer: MoELayer) -> list[int]:
    """Experts of a MoE layer that did not stay."""
    experts = keep.experts.get(number)
    if experts is None or keep.to_pruned(layer.name) is None:
        return []
    return sorted(set(range(len(layer.experts))) - set(experts.tolist()))


def _is_vector(tensor: torch.Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) == 1


@torch.no_grad()
def _forbid(tensor: torch.Tensor, dim: int, gone: list[int]) -> None:
    tensor.index_fill_(dim, torch.as_tensor(gone, device=tensor.device), float("-inf"))


def _never(gone: list[int]) -> Change:
    def change(logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.as_tensor(gone, device=logits.device), float("-inf"))

    return change


class LeftOut(nn.Module):
    """Stands in the place of a removed layer: hands its input on, with the layer's own attributes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a loop over layers asks for their kind
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The input itself."""
        return hidden_states


def leave_out_layers(model: nn.Module, keep: KeepMap) -> None:
    """Replace removed layers by layers that return their input, in place; the others keep their names."""
    containers = {layer.container for layer in keep.structure.roles.layers}
    for path, numbers in keep.lists.items():
        modules = model.get_submodule(path)
        if path in containers or not isinstance(modules, nn.ModuleList):
            continue
        for gone in sorted(set(range(len(modules))) - set(numbers.tolist())):
            modules[gone] = LeftOut(modules[gone])

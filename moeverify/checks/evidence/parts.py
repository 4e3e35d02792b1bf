"""Parts of a pruning unit, by block (expert, shared expert, module); ``coupling-minimal`` tests whether each could go
alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import nn

from moeverify.checks.evidence.liveness import ChosenUnit, Laboratory, Zeroed, without
from moeverify.models.roles import FoundRoles, MoELayer

# Parts of one group that are tried alone; a residual stream has one for each expert.
MAX_PARTS = 12


@dataclass(frozen=True, eq=False)
class Part:
    """The positions of a unit that lie in one block."""

    block: str
    zeroed: Zeroed


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """First name of a tied parameter → its further names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {first: others for first, *others in names.values() if others}


def parts_of(unit: ChosenUnit, roles: FoundRoles, laboratory: Laboratory, tied: dict[str, list[str]]) -> list[Part]:
    """Parts of a unit that might be removable alone, as far as gradients show.

    Empty if the unit lies in one block, or if its blocks share a parameter. Left out: parts that share a buffer, and
    parts whose counterparts have no gradient in the whole model. Also left out: experts of a unit with one channel in
    each fused expert.
    """
    if any(roles.boundary(other) != roles.boundary(name) for name, _ in unit.zeroed for other in tied.get(name, ())):
        return []  # the tied parameter cannot be cut for one of them alone
    alike = unit.group.experts or unit.group.role == "hidden"
    blocks: dict[str, Zeroed] = defaultdict(dict)
    for (name, dim), gone in unit.zeroed.items():
        container = roles.boundary(name)
        layer = roles.layer_of(container) if container else None
        masks = [] if layer is None or alike else _by_expert(layer, name, dim, gone, laboratory.sizes[name])
        for number, mask in enumerate(masks):
            if layer is not None and mask.any():
                blocks[layer.experts[number]][name, dim] = mask
        if not masks:
            blocks[container or roles.shared(name) or name.rsplit(".", 2)[0]][name, dim] = gone
    parts = [Part(block, part) for block, part in blocks.items()] if len(blocks) > 1 else []
    step = max(1, -(-len(parts) // MAX_PARTS))
    measurable = [
        part for part in parts[::step] if laboratory.any_live(without(unit.zeroed, part.zeroed), laboratory.free)
    ]
    return _without_common_buffer(unit, measurable, laboratory)


def _by_expert(layer: MoELayer, name: str, dim: int, gone: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Zeroed positions of each fused expert; empty if the dimension is not divided by expert."""
    count = len(layer.experts)
    if layer.fused and dim > 0 and shape[0] == count:
        tables = np.zeros((count, count, gone.shape[-1]), dtype=bool)
        tables[np.arange(count), np.arange(count)] = gone
        return list(tables)
    if layer.layout == "rows" and name in layer.stacks and dim == layer.axis(name):
        owner = np.arange(shape[dim]) // (shape[dim] // count)
        return [gone & (owner == number) for number in range(count)]
    return []


def _without_common_buffer(unit: ChosenUnit, parts: list[Part], laboratory: Laboratory) -> list[Part]:
    """Parts, without those that share a buffer of the unit with another part."""
    buffers = unit.buffers()
    if not buffers or laboratory.depends_on(buffers, unit.zeroed):
        return parts  # a buffer that others read as well does not belong to the group and ties nobody
    readers = [part for part in parts if laboratory.depends_on(buffers, without(unit.zeroed, part.zeroed))]
    return parts if len(readers) < 2 else [part for part in parts if part not in readers]

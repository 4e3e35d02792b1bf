"""Parts of tensors that were cut: what has to be seen before a pruning is approved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept, is_part, tensors_of
from moeverify.checks.evidence.router_tensors import router_axes, router_tensors
from moeverify.checks.evidence.sight import Part
from moeverify.models.roles import FoundRoles, MoELayer

KeptMap = Mapping[tuple[str, int], Kept]


def cut_parts(
    pruned: nn.Module,
    names: Mapping[str, str],
    kept: KeptMap,
    roles: FoundRoles,
    stayed: Mapping[str, Sequence[int]],
) -> list[Part]:
    """One part for each floating-point tensor of ``pruned`` that lost positions, and for each expert in a stack.

    ``names``: original names. ``stayed``: experts of each layer that stayed.
    """
    cut = {name for name, _ in kept}
    parts: list[Part] = []
    for mine, tensor in tensors_of(pruned).items():
        source = names.get(mine, mine)
        if source in cut and tensor.is_floating_point():
            parts += _parts(mine, source, tensor, roles, stayed)
    return parts


def _parts(
    mine: str, source: str, tensor: torch.Tensor, roles: FoundRoles, stayed: Mapping[str, Sequence[int]]
) -> list[Part]:
    for layer in roles.layers:
        if source in layer.stacks:
            size = tensor.shape[layer.axis(source)]
            if size and (layer.fused or not size % len(stayed[layer.name])):
                return stack_parts(mine, source, size, layer, stayed[layer.name])
        if (expert := layer.owner(source)) is not None:
            return [Part(mine, source, layer.experts[expert])]
    return [Part(mine, source)]


def stack_parts(mine: str, source: str, size: int, layer: MoELayer, stayed: Sequence[int]) -> list[Part]:
    """Part of each expert in a parameter that holds all of them, ``size`` long where they lie."""
    each = 1 if layer.fused else size // len(stayed)  # a fused stack may go on with classes that have no weights
    dim = layer.axis(source)
    return [
        Part(mine, f"{source}[{expert}]", layer.experts[expert], place * each, (place + 1) * each, dim)
        for place, expert in enumerate(stayed)
    ]


def agrees_with_router(
    part: Part, seen: set[str], kept: KeptMap, models: Sequence[nn.Module], roles: FoundRoles, trained: Collection[str]
) -> bool:
    """Whether a companion of a router kept the same experts as the router's matrix was seen to keep.

    Needed since a bias on the choice of experts has no effect on outputs where all experts left are chosen. A matrix
    counts if it is one of ``trained``, which only a training forward uses: random noise for other experts is another
    one, so that outputs cannot be compared. It must hold the values at the positions of the seen matrix, bit for bit.
    ``models``: the original and the pruned model.
    """
    original, pruned = models

    def experts_kept(name: str, dim: int, layer: MoELayer) -> np.ndarray | None:
        entry = kept.get((name, dim))
        if entry is None or not entry.exact:
            return None
        return entry.positions[entry.positions < len(layer.experts)]  # rows of further classes follow the experts'

    for layer in roles.layers:
        tensors, axes = router_tensors(original, layer), router_axes(original, layer)
        if part.label not in tensors:
            continue
        matrices = [n for n, t in tensors.items() if n in seen and t.numel() > max(t.shape)]
        if max(tensors[part.label].shape) != tensors[part.label].numel():
            after = tensors_of(pruned)[part.tensor]
            return part.label in trained and any(_beside(part.label, n, tensors, axes, kept, after) for n in matrices)
        mine = experts_kept(part.label, axes[part.label], layer)
        theirs = [experts_kept(n, axes[n], layer) for n in matrices]
        return mine is not None and any(m is not None and np.array_equal(m, mine) for m in theirs)
    return False


def _beside(
    name: str,
    matrix: str,
    tensors: Mapping[str, torch.Tensor],
    axes: Mapping[str, int],
    kept: KeptMap,
    after: torch.Tensor,
) -> bool:
    """Whether a router's further matrix is, after pruning, what the original's is at the positions of ``matrix``."""
    before, other = tensors[name], tensors[matrix]
    if before.dim() != 2 or other.dim() != 2:
        return False
    pairs = ((axes[name], axes[matrix]), (1 - axes[name], 1 - axes[matrix]))
    if any(before.shape[mine] != other.shape[theirs] for mine, theirs in pairs):
        return False
    known = {(name, mine): kept[matrix, theirs] for mine, theirs in pairs if (matrix, theirs) in kept}
    return all(entry.exact for entry in known.values()) and is_part(after, before, name, known)

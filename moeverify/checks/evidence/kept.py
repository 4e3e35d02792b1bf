"""Kept channels, recovered by matching the pruned tensors against the original ones.

No claim of the subject is used, so wrong bookkeeping cannot hide. Pruning never changes a kept value: a pruned tensor
is the original at some positions of each dimension (see ``locate``). Some values are ambiguous: a norm weight of ones,
a bias of zeros, bfloat16 with few distinct values. There the kept positions of a neighbouring tensor are tried, and
taken only if they give the pruned values exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.locate import Positions, bits, locate, vote
from moeverify.checks.evidence.owners import owners
from moeverify.checks.evidence.router_tensors import experts_apart, is_map, router_axes
from moeverify.models.moe_layer import ancestors
from moeverify.models.roles import FoundRoles, MoELayer

# Neighbours tried for a tensor whose own values do not tell.
MAX_HINTS = 12

Partners = Mapping[tuple[str, int], frozenset[tuple[str, int]]]


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept positions along one dimension, ``[n]``, or ``[experts, n]`` where the experts of a stack differ.

    ``exact`` is ``False`` where the tensor's own values are ambiguous, or where no position of the original fits.
    """

    positions: np.ndarray
    exact: bool


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@dataclass(frozen=True, eq=False)
class _Settled:
    """Recovered positions of one dimension; ``size`` is its size in the original."""

    name: str
    dim: int
    expert: int | None
    size: int
    positions: np.ndarray


@dataclass
class _Part:
    """A tensor, or the slice of one expert in a stack, while its kept positions are recovered."""

    name: str
    new: np.ndarray
    old: np.ndarray
    expert: int | None
    positions: Positions
    unsure: set[int]
    equal: bool


def _is_split(new: np.ndarray, old: np.ndarray, stacked: bool) -> bool:
    """Whether a tensor is split into experts: a stack whose inner dimensions shrank. Each may keep other channels.

    A 3-D tensor always counts as a stack, which does no harm otherwise. A matrix counts only if ``stacked``: the
    bias ``[experts, n]`` of fused experts.
    """
    return (new.ndim == 3 or stacked) and new.shape[1:] != old.shape[1:]


def _split(name: str, new: np.ndarray, old: np.ndarray, sources: np.ndarray) -> Iterable[_Part]:
    """One part for each expert of a stack. ``sources``: its number in the original, or -1 if that is not known."""
    if len(new) < len(old):
        first_new, first_old = new.reshape(len(new), -1)[:, 0], old.reshape(len(old), -1)[:, 0]
        yield _Part(name, first_new, first_old, None, {0: sources}, set(), bool((sources >= 0).all()))
    for number, source in enumerate(sources):
        if source >= 0:
            yield _Part(name, new[number], old[source], number, *locate(new[number], old[source]))


def _sources(whole: _Part, settled: Sequence[_Settled], partners: Partners) -> np.ndarray:
    """Experts of a stack in the original: by its values, and where these do not tell (zeros), as in a neighbour."""
    voted = whole.positions[0]
    known = voted >= 0
    hints = islice(_hints(whole, 0, settled, partners), MAX_HINTS)
    return next((hint for hint in hints if np.array_equal(hint[known], voted[known])), voted)


def _settled(parts: Iterable[_Part]) -> list[_Settled]:
    """Dimensions whose positions are sure."""
    return [
        _Settled(part.name, dim, part.expert, part.old.shape[dim], positions)
        for part in parts
        if part.equal
        for dim, positions in part.positions.items()
        if dim not in part.unsure
    ]


def _stacked(original: nn.Module, name: str, experts: int) -> bool:
    """Whether a tensor ``[experts, ...]`` lies beside a stack of so many experts."""
    beside = original.get_submodule(name.rpartition(".")[0])._parameters.values()
    return any(p is not None and p.dim() == 3 and p.shape[0] == experts for p in beside)


def _alike(first: str, second: str) -> int:
    """Number of characters that two names begin with alike: ``q_norm`` is nearer to ``q_proj`` than ``k_proj`` is."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))


def _hints(part: _Part, dim: int, settled: Sequence[_Settled], partners: Partners) -> Iterable[np.ndarray]:
    """Kept positions of other dimensions with the same sizes before and after, as candidates.

    Partners come first, then tensors of the same expert, then the nearest paths. At equal distance, the positions that
    most of them have come first. Example: a norm of ones is nearer to its readers than to the heads.
    """
    fitting = [s for s in settled if s.size == part.old.shape[dim] and len(s.positions) == part.new.shape[dim]]
    mine = partners.get((part.name, dim), frozenset()) if part.expert is None else frozenset()
    near = [
        ((s.name, s.dim) not in mine or s.expert is not None, s.expert != part.expert, -_alike(s.name, part.name))
        for s in fitting
    ]
    held = Counter((place, s.positions.tobytes()) for place, s in zip(near, fitting, strict=True))
    ranked = sorted(
        zip(near, fitting, strict=True), key=lambda x: (x[0], -held[x[0], x[1].positions.tobytes()], x[1].name)
    )
    seen: set[bytes] = set()
    for _, neighbour in ranked:
        if (key := neighbour.positions.tobytes()) not in seen:
            seen.add(key)
            yield neighbour.positions


def _settle(part: _Part, settled: Sequence[_Settled], partners: Partners) -> None:
    """Try neighbours' positions where the values are ambiguous."""
    for dim in sorted(part.unsure or part.positions):
        for hint in islice(_hints(part, dim, settled, partners), MAX_HINTS):
            recovered, _, equal = locate(part.new, part.old, {dim: hint})
            if equal:
                part.positions, part.equal = recovered, True
                return


def source_names(original: nn.Module, pruned: nn.Module, roles: FoundRoles) -> dict[str, str]:
    """For each tensor of the pruned model the name it had: where listed experts were removed, the others moved up.

    The rows of the router show which experts stayed; without such rows their own values do.
    """
    names = {name: name for name in tensors_of(pruned)}
    for layer in roles.layers:
        now_there = experts_apart(pruned, layer)
        if not len(now_there) < len(layer.parts):
            continue
        stayed = _kept_experts(original, tensors_of(pruned), layer)
        if not len(stayed):
            found = owners(original, pruned, layer)
            stayed = np.array(found if min(found, default=-1) >= 0 else [], dtype=np.int64)
        pairs = zip(now_there, stayed, strict=False)
        moved = {now: then for paths, old in pairs for now, then in zip(paths, layer.parts[int(old)], strict=True)}
        for name in names:
            for now in ancestors(name):
                if now in moved:
                    names[name] = moved[now] + name.removeprefix(now)
    return names


def _kept_experts(original: nn.Module, after: Mapping[str, torch.Tensor], layer: MoELayer) -> np.ndarray:
    """Experts that stayed, by the router's rows; empty without a router."""
    before = tensors_of(original)
    for name, dim in router_axes(original, layer).items():
        old, new = before[name], after.get(name)
        if is_map(old) and new is not None and new.dim() == old.dim() and new.shape[dim] < old.shape[dim]:
            positions = locate(bits(new), bits(old))[0].get(dim, np.empty(0, dtype=np.int64))
            return positions[(positions >= 0) & (positions < len(layer.experts))]
    return np.empty(0, dtype=np.int64)


def recover_kept(
    original: nn.Module, pruned: nn.Module, names: Mapping[str, str] | None = None, partners: Partners | None = None
) -> dict[tuple[str, int], Kept]:
    """Kept positions of every dimension of a parameter or buffer whose size changed, under its original name.

    ``names`` gives the original names, where they differ (see ``source_names``). ``partners`` names for a dimension
    others that hold the same channels in the same order: they are tried first where values are ambiguous.
    """
    before = tensors_of(original)
    parts: list[_Part] = []
    stacks: list[_Part] = []
    for name, tensor in tensors_of(pruned).items():
        name = name if names is None else names.get(name, name)
        source = before.get(name)
        if source is None or source.dtype != tensor.dtype or source.dim() != tensor.dim():
            continue
        if (
            source.shape == tensor.shape
            or not source.dim()
            or any(a > b for a, b in zip(tensor.shape, source.shape, strict=True))
        ):
            continue
        new, old = bits(tensor), bits(source)
        if not _is_split(new, old, _stacked(original, name, len(source))):
            parts.append(_Part(name, new, old, None, *locate(new, old)))
        elif len(new) == len(old):
            parts += _split(name, new, old, np.arange(len(old)))
        else:
            stacks.append(_Part(name, new, old, None, *vote(new, old, [0]), equal=False))
    partners = partners or {}
    # Stacks whose values tell their experts come first, since the others follow them.
    for whole in sorted(stacks, key=lambda stack: (stack.positions[0] < 0).any()):
        parts += _split(whole.name, whole.new, whole.old, _sources(whole, _settled(parts), partners))
    settled = _settled(parts)
    for part in parts:
        if part.unsure or not part.equal:
            _settle(part, settled, partners)
    result: dict[tuple[str, int], Kept] = {}
    rows_of: dict[tuple[str, int], list[tuple[np.ndarray, bool]]] = {}
    for part in parts:
        for dim, positions in part.positions.items():
            exact = part.equal and dim not in part.unsure
            if part.expert is None:
                result[part.name, dim] = Kept(positions, exact)
            else:
                rows_of.setdefault((part.name, dim + 1), []).append((positions, exact))
    for key, rows in rows_of.items():
        table = np.stack([positions for positions, _ in rows])
        same = bool((table == table[0]).all())
        result[key] = Kept(table[0] if same else table, all(exact for _, exact in rows))
    return result


def kept_part(original: torch.Tensor, name: str, kept: Mapping[tuple[str, int], Kept]) -> torch.Tensor | None:
    """The original values at the recovered positions, in that order; ``None`` where a position is unknown."""
    values = original.detach()
    for dim in range(original.dim()):
        part = kept.get((name, dim))
        if part is None:
            continue
        if (part.positions < 0).any():
            return None
        index = torch.as_tensor(part.positions, device=values.device)
        if index.dim() == 1:
            values = values.index_select(dim, index)
        else:
            values = torch.stack([values[e].index_select(dim - 1, row) for e, row in enumerate(index)])
    return values


def is_part(pruned: torch.Tensor, original: torch.Tensor, name: str, kept: Mapping[tuple[str, int], Kept]) -> bool:
    """Whether the pruned values are those of the original at the recovered positions, in that order, bit for bit."""
    values = kept_part(original, name, kept)
    return values is not None and values.shape == pruned.shape and np.array_equal(bits(values), bits(pruned))

"""Search for an array in a larger one: positions of each dimension at which the larger one holds it, bit for bit.

Values that the larger array holds only once vote for their coordinates, which settles most arrays. In bfloat16 few
values are alone: slices are then compared where the other dimensions are settled. Slices along the last open dimension
are recognised as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Positions = dict[int, np.ndarray]


def bits(values: torch.Tensor) -> np.ndarray:
    """Values as integers of their size: equality of bits, NaN included."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    values = values.detach().cpu().contiguous()
    return values.view(kinds[values.element_size()]).numpy()


def take(values: np.ndarray, positions: Positions) -> np.ndarray:
    """``values`` at ``positions`` of some dimensions."""
    for dim, index in positions.items():
        values = np.take(values, index, axis=dim)
    return values


def _match_slices(new: np.ndarray, old: np.ndarray, dim: int) -> tuple[np.ndarray, bool] | None:
    """For each slice of ``new`` along ``dim`` the slice of ``old`` that equals it; ``None`` if one has none.

    Equal slices of ``old`` are handed out in ascending order; the flag is true if there were none.
    """
    rows_new = np.ascontiguousarray(np.moveaxis(new, dim, 0)).reshape(new.shape[dim], -1)
    rows_old = np.ascontiguousarray(np.moveaxis(old, dim, 0)).reshape(old.shape[dim], -1)
    owners: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows_old):
        owners.setdefault(row.tobytes(), []).append(number)
    unique = True
    taken: dict[bytes, int] = {}
    result = []
    for row in rows_new:
        key = row.tobytes()
        candidates = owners.get(key)
        if not candidates:
            return None
        turn = taken.get(key, 0)
        taken[key] = turn + 1
        result.append(candidates[min(turn, len(candidates) - 1)])
        unique &= len(candidates) == 1
    return np.array(result, dtype=np.int64), unique


def vote(new: np.ndarray, old: np.ndarray, dims: Sequence[int]) -> tuple[Positions, set[int]]:
    """Positions along ``dims``, by votes of values that occur once in ``old``; -1 without a vote.

    Second: the dims in which a position got no vote or contradictory votes.
    """
    flat = old.ravel()
    order = np.argsort(flat, kind="stable")
    ranked = flat[order]
    alone = np.ones(len(ranked), dtype=bool)
    alone[1:] &= ranked[1:] != ranked[:-1]
    alone[:-1] &= ranked[:-1] != ranked[1:]
    values, sources = ranked[alone], order[alone]
    result: Positions = {dim: np.full(new.shape[dim], -1, dtype=np.int64) for dim in dims}
    if not len(values):
        return result, set(dims)
    wanted = new.ravel()
    spot = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    hits = np.flatnonzero(values[spot] == wanted)
    there = np.unravel_index(sources[spot[hits]], old.shape)
    here = np.unravel_index(hits, new.shape)
    unsure = set()
    for dim in dims:
        keys, counts = np.unique(here[dim] * old.shape[dim] + there[dim], return_counts=True)
        rank = np.argsort(counts, kind="stable")
        positions = result[dim]
        positions[keys[rank] // old.shape[dim]] = keys[rank] % old.shape[dim]
        if len(keys) != new.shape[dim] or (positions < 0).any():
            unsure.add(dim)
    return result, unsure


def _spread(new: np.ndarray, old: np.ndarray, found: Positions) -> None:
    """Fill in positions without a vote (-1), in place.

    A slice is compared at the positions that are known in the other dimensions. Each position found helps to find
    others, so this repeats until none is added.
    """
    gained = True
    while gained:
        gained = False
        for dim, positions in found.items():
            missing = np.flatnonzero(positions < 0)
            here, there = new, old
            for other, theirs in found.items():
                if other != dim:
                    sure = np.flatnonzero(theirs >= 0)
                    here, there = np.take(here, sure, axis=other), np.take(there, theirs[sure], axis=other)
            if not len(missing) or not here.size:
                continue
            owners: dict[bytes, list[int]] = {}
            for number, row in enumerate(np.moveaxis(there, dim, 0)):
                owners.setdefault(row.tobytes(), []).append(number)
            for number in missing:
                candidates = owners.get(np.take(here, number, axis=dim).tobytes(), [])
                if len(candidates) == 1:
                    positions[number] = candidates[0]
                    gained = True


def locate(new: np.ndarray, old: np.ndarray, known: Positions | None = None) -> tuple[Positions, set[int], bool]:
    """Locate ``new`` in ``old``. Returns the positions of each dimension that shrank, the dimensions whose values are
    ambiguous, and whether ``old`` at these positions is ``new``, bit for bit. ``known`` fixes some dimensions.

    >>> old = np.arange(12).reshape(3, 4)
    >>> found, unsure, equal = locate(old[[0, 2]][:, [1, 3]], old)
    >>> found[0].tolist(), found[1].tolist(), unsure, equal
    ([0, 2], [1, 3], set(), True)
    """
    known = dict(known or {})
    open_dims = [d for d in range(old.ndim) if old.shape[d] != new.shape[d] and d not in known]
    rest = take(old, known)
    result, unsure = vote(new, rest, open_dims) if len(open_dims) > 1 else ({}, set(open_dims))
    silent = {dim for dim, positions in result.items() if (positions < 0).any()}
    if silent:
        _spread(new, rest, result)
        unsure -= {dim for dim in silent if (result[dim] >= 0).all()}
    # With all other dimensions settled, whole slices are compared along the last one.
    if len(unsure) == 1:
        (dim,) = unsure
        matched = _match_slices(new, take(rest, {d: p for d, p in result.items() if d != dim}), dim)
        if matched is None:
            result[dim] = vote(new, rest, [dim])[0][dim]
        else:
            result[dim], unique = matched
            unsure = set() if unique else unsure
    result = {**known, **result}
    equal = all((p >= 0).all() for p in result.values()) and np.array_equal(take(old, result), new)
    return result, unsure, equal

"""Single positions: which ones go together inside a region of linked dimensions.

A *region* is a set of dimensions that segments and chosen factors link position by position. Its connected components
are the *units* that can only be removed together. The sets only grow and are bounded by the number of positions, so
this terminates by construction. A region is described without the names of its dimensions, so the layers of a model,
which are alike, are solved once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Region:
    """Dimensions numbered from 0, and how their positions are linked.

    ``links`` are ``(source, target, start, step, inner, period)``: position ``i`` of ``source`` is position ``start +
    step * (i // inner % period)`` of ``target``. ``seeds`` are ``(dim, start, step, count)``: positions that are frozen
    from outside. ``anchored``: whether each dimension belongs to a parameter or buffer. ``pairs`` are ``(dim,
    positions, other dim, positions there)``, coupled one by one.
    """

    sizes: tuple[int, ...]
    links: tuple[tuple[int, int, int, int, int, int], ...]
    seeds: tuple[tuple[int, int, int, int], ...]
    anchored: tuple[bool, ...]
    pairs: tuple[tuple[int, tuple[int, ...], int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Solution:
    """Units of a region.

    Each entry of ``classes`` maps the anchored dimensions that its units occupy to positions of shape
    ``[units, positions per unit]``. ``frozen`` maps an anchored dimension to ``(seed number, positions)`` pairs.
    """

    classes: tuple[dict[int, np.ndarray], ...]
    frozen: dict[int, tuple[tuple[int, np.ndarray], ...]]


def solve_region(region: Region) -> Solution:
    """Units of a region, grouped into classes that occupy the same dimensions alike."""
    offsets = np.concatenate([[0], np.cumsum(region.sizes)])
    labels = _components(region, offsets)
    count = int(labels.max()) + 1
    frozen_by = np.full(count, -1)
    for number, (dim, start, step, length) in reversed(list(enumerate(region.seeds))):
        frozen_by[labels[offsets[dim] + start + step * np.arange(length)]] = number
    anchored = {k: labels[offsets[k] : offsets[k + 1]] for k, flag in enumerate(region.anchored) if flag}
    kind = _kinds(list(anchored.values()), frozen_by)
    classes: list[dict[int, np.ndarray]] = [{} for _ in range(int(kind.max()) + 1)]
    frozen = {}
    for dim, own in anchored.items():
        # Stable: within one unit the positions stay ascending.
        order = np.lexsort((own, kind[own]))
        sorted_kinds = kind[own[order]]
        starts = np.searchsorted(sorted_kinds, np.arange(len(classes) + 1))
        for number, members in enumerate(classes):
            inside = order[starts[number] : starts[number + 1]]
            if len(inside):
                members[dim] = _frozen_array(inside.reshape(len(np.unique(own[inside])), -1))
        held = order[: starts[0]]
        by_seed = frozen_by[own[held]]
        if len(held):
            frozen[dim] = tuple((int(s), np.sort(held[by_seed == s])) for s in np.unique(by_seed))
    return Solution(tuple(c for c in classes if c), frozen)


def _frozen_array(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _components(region: Region, offsets: np.ndarray) -> np.ndarray:
    """Number of the connected component of every position."""
    empty = np.zeros(0, dtype=np.int32)
    sources, targets = [empty], [empty]
    for source, target, start, step, inner, period in region.links:
        positions = np.arange(region.sizes[source], dtype=np.int32)
        sources.append(positions + offsets[source].astype(np.int32))
        targets.append((offsets[target] + start + step * (positions // inner % period)).astype(np.int32))
    for first, here, second, there in region.pairs:
        sources.append((offsets[first] + np.array(here)).astype(np.int32))
        targets.append((offsets[second] + np.array(there)).astype(np.int32))
    rows, columns = np.concatenate(sources), np.concatenate(targets)
    total = int(offsets[-1])
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels


def _kinds(dims: list[np.ndarray], frozen_by: np.ndarray) -> np.ndarray:
    """Class number of each component, -1 if it is frozen.

    Components are of one class if they have equally many positions in each dimension. Dimensions are compared one at a
    time, so that the table of all counts is never built.
    """
    kind = np.zeros(len(frozen_by), dtype=np.int64)
    for own in dims:
        counts = np.bincount(own, minlength=len(kind))
        kind = np.unique(kind * (counts.max() + 1) + counts, return_inverse=True)[1]
    kind[frozen_by >= 0] = -1
    return kind

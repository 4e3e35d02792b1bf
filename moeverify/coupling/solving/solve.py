"""From relations to coupling classes.

Whole-dimension equalities merge first (``links``); segments and the chosen factor of each product then connect single
positions (``regions``). A dimension that nothing links is a class of its own, and its positions are never listed one by
one. The cost follows the number of dimensions, not of channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from moeverify.coupling.relations import Freeze, Trace
from moeverify.coupling.solving.classes import CouplingClass, FrozenDim, Member
from moeverify.coupling.solving.links import Links, link
from moeverify.coupling.solving.regions import Region, Solution, solve_region
from moeverify.coupling.solving.unread import UNREAD, without_unread

__all__ = ["CouplingClass", "FrozenDim", "Links", "Member", "link", "solve"]

# One parameter or buffer that a root holds: its number in the order of the trace, its name and the dimension.
_Place = tuple[int, str, int]
# Where a class begins: the number of its first parameter, the dimension and the position.
_Begin = tuple[int, int, int]
# Segments and coupled pairs between roots, the ends of the graph that regions are parts of.
_Edge = tuple[int, int, int, int, int, int]
_Pair = tuple[int, tuple[int, ...], int, tuple[int, ...]]
Pairs = tuple[int, np.ndarray, int, np.ndarray]


def solve(
    trace: Trace, links: Links | None = None, extra: Sequence[Pairs] = ()
) -> tuple[tuple[CouplingClass, ...], tuple[FrozenDim, ...]]:
    """Coupling classes and frozen dimensions of a trace, in the order of the parameters.

    ``links`` are those of ``link(trace)`` if they are known already. ``extra`` couples further positions pair by pair:
    ``(dim, positions, other dim, positions there)``.
    """
    links = links or link(trace)
    sizes = links.relations.sizes
    places: dict[int, list[_Place]] = defaultdict(list)
    for number, (name, dims) in enumerate(trace.tensors.items()):
        for axis, dim in enumerate(dims):
            if sizes[dim] > 1:
                places[links.root[dim]].append((number, name, axis))

    result: list[tuple[_Begin, CouplingClass]] = []
    frozen_places: list[tuple[_Place, Freeze, Sequence[int]]] = []
    solutions = cache(solve_region)
    shapes = {name: tuple(sizes[dim] for dim in dims) for name, dims in trace.tensors.items()}
    slices = {links.root[segment.whole]: segment.operation for segment in links.relations.segments}
    linked: set[int] = set()
    for roots, region, reasons in _regions(links, places, extra):
        linked.update(roots)
        solution = solutions(region)
        owners = {k: places[r] for k, r in enumerate(roots) if r in places}
        tables = {
            k
            for k, owned in owners.items()
            if roots[k] in slices and len({(axis, shapes[name]) for _, name, axis in owned}) == 1
        }
        solution, unread = without_unread(solution, region, tables)
        for k, positions in unread:
            freeze = Freeze(roots[k], UNREAD, slices[roots[k]])
            frozen_places += [(place, freeze, _compact(np.sort(positions))) for place in owners[k]]
        result += _classes(solution, owners, trace.buffers)
        for k, parts in solution.frozen.items():
            frozen_places += [(place, reasons[seed], _compact(p)) for place in owners[k] for seed, p in parts]
    for root, owned in places.items():
        if root in links.frozen:
            frozen_places += [(place, links.frozen[root], range(sizes[root])) for place in owned]
        elif root not in linked:
            result += _classes(Solution(({0: _identity(sizes[root])},), {}), {0: owned}, trace.buffers)
    return _in_order(trace, result, frozen_places)


@cache
def _identity(size: int) -> np.ndarray:
    positions = np.arange(size)[:, None]
    positions.setflags(write=False)
    return positions


def _compact(positions: np.ndarray) -> Sequence[int]:
    """Ascending positions as a ``range`` if they are consecutive."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):
        return range(first, last + 1)
    return tuple(positions.tolist())


def _regions(
    links: Links, places: dict[int, list[_Place]], extra: Sequence[Pairs]
) -> list[tuple[list[int], Region, list[Freeze]]]:
    """Sets of linked roots that are not frozen, each with its region and the freeze behind every seed.

    A frozen root links nothing. Positions that it freezes in another root become seeds.
    """
    relations, root, frozen = links.relations, links.root, links.frozen
    edges: list[_Edge] = []
    seeds: dict[int, dict[tuple[int, int, int], Freeze]] = defaultdict(dict)
    for segment in relations.segments:
        whole, part, count = root[segment.whole], root[segment.part], relations.sizes[segment.part]
        if whole in frozen:
            continue  # and so is the part
        if part in frozen:
            seeds[whole].setdefault((segment.start, segment.step, count), frozen[part])
        else:
            edges.append((part, whole, segment.start, segment.step, 1, count))
    for number, (factor, size, inner) in links.chosen.items():
        edges.append((root[relations.products[number].whole], factor, 0, 1, inner, size))
    pairs: list[_Pair] = []
    for first, here, second, there in extra:
        a, b = root[first], root[second]
        for live, held, positions in ((a, b, here), (b, a, there)):
            if held in frozen and live not in frozen:
                for position in positions.tolist():
                    seeds[live].setdefault((position, 1, 1), frozen[held])
        if a not in frozen and b not in frozen:
            pairs.append((a, tuple(here.tolist()), b, tuple(there.tolist())))

    joined = [*(edge[:2] for edge in edges), *((a, b) for a, _, b, _ in pairs)]
    roots = sorted({r for ends in joined for r in ends} | set(seeds))
    index = {r: k for k, r in enumerate(roots)}
    ends = np.array([(index[a], index[b]) for a, b in joined], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(len(roots), len(roots)))
    labels = connected_components(graph, directed=False)[1].tolist() if roots else []
    grouped: dict[int, list[int]] = defaultdict(list)
    for r, label in zip(roots, labels, strict=True):
        grouped[label].append(r)
    by_group: dict[int, set[_Edge]] = defaultdict(set)
    for edge in edges:
        by_group[labels[index[edge[0]]]].add(edge)
    pairs_of: dict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        pairs_of[labels[index[pair[0]]]].append(pair)

    result = []
    for label, members in grouped.items():
        if not any(r in places for r in members):
            continue
        local = {r: k for k, r in enumerate(members)}
        own = [(local[r], seed, freeze) for r in members for seed, freeze in seeds[r].items()]
        region = Region(
            sizes=tuple(relations.sizes[r] for r in members),
            links=tuple(
                sorted(
                    (local[part], local[whole], start, step, inner, count)
                    for part, whole, start, step, inner, count in by_group[label]
                )
            ),
            seeds=tuple((k, *seed) for k, seed, _ in own),
            anchored=tuple(r in places for r in members),
            pairs=tuple((local[a], here, local[b], there) for a, here, b, there in pairs_of[label]),
        )
        result.append((members, region, [freeze for *_, freeze in own]))
    return result


def _classes(
    solution: Solution, owners: dict[int, list[_Place]], buffers: frozenset[str]
) -> list[tuple[_Begin, CouplingClass]]:
    """The classes of a region with the place where each begins, by which they are ordered."""
    result = []
    for occupied in solution.classes:
        at = sorted((place, k) for k in occupied for place in owners[k])
        if all(name in buffers for (_, name, _), _ in at):
            continue  # a class of unused buffers proves nothing
        arrays = dict(occupied)
        first = arrays[at[0][1]][:, 0]
        if (first[1:] < first[:-1]).any():  # units in the order of the first parameter
            order = np.argsort(first)
            for k, array in arrays.items():
                arrays[k] = array[order]
                arrays[k].setflags(write=False)
        members = tuple(Member(name, axis, arrays[k], name in buffers) for (_, name, axis), k in at)
        (number, _, axis), k = at[0]
        result.append(((number, axis, int(arrays[k][0, 0])), CouplingClass(members)))
    return result


def _in_order(
    trace: Trace, found: list[tuple[_Begin, CouplingClass]], frozen_places: list[tuple[_Place, Freeze, Sequence[int]]]
) -> tuple[tuple[CouplingClass, ...], tuple[FrozenDim, ...]]:
    classes = tuple(c for _, c in sorted(found, key=lambda pair: pair[0]))
    frozen_places.sort(key=lambda item: (item[0][0], item[0][2], item[2][0]))
    operations, lines = trace.relations.operations, trace.relations.lines
    frozen = tuple(
        FrozenDim(
            name,
            axis,
            positions,
            freeze.reason,
            _named(operations, freeze.operation),
            freeze,
            lines.get(freeze.operation, ""),
        )
        for (_, name, axis), freeze, positions in frozen_places
    )
    return classes, frozen


def _named(operations: Sequence[object], number: int) -> str:
    return str(operations[number]) if number >= 0 else "(model)"

"""From relations to coupling classes.

Whole-dimension equalities go into a union-find; segments and the chosen factor of each product connect single
positions; the connected components of that graph are the *units* that can only be removed together. The sets only
grow and are bounded by the number of positions, so this terminates by construction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from moeverify.coupling.dims import Freeze, Relations
from moeverify.coupling.trace import Trace


@dataclass(frozen=True, eq=False)
class Member:
    """What each unit of a class occupies in one parameter (or buffer).

    ``positions`` has shape ``[units, positions per unit]``: row ``u`` lists the positions along ``dim`` that go
    when unit ``u`` goes.
    """

    parameter: str
    dim: int
    positions: np.ndarray
    buffer: bool = False


@dataclass(frozen=True, eq=False)
class CouplingClass:
    """Units that are alike (they occupy the same dimensions of the same parameters) and removable one by one."""

    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.members[0].positions)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters (not buffers) that the class touches."""
        return frozenset(m.parameter for m in self.members if not m.buffer)


@dataclass(frozen=True)
class FrozenDim:
    """A parameter's dimension with positions that can never be removed, and the operation that froze it."""

    parameter: str
    dim: int
    positions: tuple[int, ...]
    reason: str
    operation: str


class _UnionFind:
    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def union(self, first: int, second: int) -> None:
        self.parent[self.find(first)] = self.find(second)


def _unify_factors(relations: Relations, finder: _UnionFind) -> None:
    """The same dimension split twice into the same sizes gives the same factors; repeat until nothing changes."""
    changed = True
    while changed:
        changed = False
        first: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        for product in relations.products:
            sizes = tuple(relations.sizes[f] for f in product.factors)
            factors = first.setdefault((finder.find(product.whole), sizes), product.factors)
            for a, b in zip(factors, product.factors, strict=True):
                if finder.find(a) != finder.find(b):
                    finder.union(a, b)
                    changed = True


def _propagate(products: list[tuple[int, tuple[int, ...]]], frozen: dict[int, Freeze]) -> None:
    """Freeze what must be: a dimension whose factors are all frozen, and the factors of a frozen dimension."""
    changed = True
    while changed:
        changed = False
        for whole, factors in products:
            if whole in frozen:
                for factor in factors:
                    if factor not in frozen:
                        frozen[factor] = frozen[whole]
                        changed = True
            elif all(factor in frozen for factor in factors):
                frozen[whole] = frozen[factors[0]]
                changed = True


def _choose_factors(
    relations: Relations, root: list[int], frozen: dict[int, Freeze]
) -> dict[int, tuple[int, int, int]]:
    """For each product pick the outermost factor that is not frozen; freeze what cannot be removed then.

    Removing a row of heads x head_dim and a column of it are two different cuts; only one can be offered. The
    outer factor (heads, key/value groups) is preferred. One choice is made at a time and its consequences are
    drawn before the next. Returns product number -> (factor class, factor size, inner stride); adds to ``frozen``.
    """
    products = [(root[p.whole], tuple(root[f] for f in p.factors)) for p in relations.products]
    _propagate(products, frozen)
    for number, (_, factors) in enumerate(products):
        live = [k for k, factor in enumerate(factors) if factor not in frozen]
        for k in live[1:]:
            reason = "another factor of the same dimension is pruned (whole rows, not columns)"
            product = relations.products[number]
            frozen.setdefault(factors[k], Freeze(product.factors[k], reason, product.operation))
        if len(live) > 1:
            _propagate(products, frozen)
    chosen: dict[int, tuple[int, int, int]] = {}
    for number, (_, factors) in enumerate(products):
        sizes = [relations.sizes[f] for f in relations.products[number].factors]
        for k, factor in enumerate(factors):
            if factor not in frozen:
                chosen[number] = (factor, sizes[k], math.prod(sizes[k + 1 :]))
                break
    return chosen


@dataclass(frozen=True, eq=False)
class Links:
    """The relations of a trace, decided: what a walk from one channel to its coupled ones may follow.

    ``root[dim]`` names the dimension that stands for all those equal to it. ``frozen`` maps roots to the freeze that
    holds them. ``chosen`` gives for each product that is followed ``(root of the factor, factor size, inner stride)``:
    position ``i`` of the whole belongs to position ``i // inner % size`` of the factor.
    """

    relations: Relations
    root: list[int]
    frozen: Mapping[int, Freeze]
    chosen: Mapping[int, tuple[int, int, int]]


def link(trace: Trace) -> Links:
    """Merge equal dimensions, freeze what must stay and choose the factor of each product that can be removed."""
    relations = trace.relations
    count = len(relations.sizes)
    finder = _UnionFind(count)
    for a, b, _ in relations.equals:
        finder.union(a, b)
    _unify_factors(relations, finder)
    root = [finder.find(dim) for dim in range(count)]
    frozen: dict[int, Freeze] = {}
    for freeze in relations.freezes:
        frozen.setdefault(root[freeze.dim], freeze)
    _freeze_untouched(trace, root, frozen)
    for parts in relations.balances:
        if len({root[p] for p in parts}) > 1:
            for part in parts:
                reason = "part of an equal split whose parts would have to shrink alike"
                frozen.setdefault(root[part], Freeze(part, reason, relations.current))
    chosen = _choose_factors(relations, root, frozen)
    return Links(relations, root, frozen, chosen)


def solve(trace: Trace, links: Links | None = None) -> tuple[tuple[CouplingClass, ...], tuple[FrozenDim, ...]]:
    """Coupling classes and frozen dimensions of a trace, in the order of the parameters.

    ``links`` are those of ``link(trace)`` if they are known already.
    """
    links = links or link(trace)
    relations, root, frozen, chosen = links.relations, links.root, links.frozen, links.chosen
    roots = sorted(set(root))
    offset = dict(zip(roots, np.cumsum([0, *(relations.sizes[r] for r in roots)])[:-1].tolist(), strict=True))
    total = sum(relations.sizes[r] for r in roots)
    sources, targets = [], []
    for segment in relations.segments:
        size = relations.sizes[segment.part]
        sources.append(offset[root[segment.part]] + np.arange(size))
        targets.append(offset[root[segment.whole]] + segment.start + segment.step * np.arange(size))
    for number, (factor, size, inner) in chosen.items():
        whole = root[relations.products[number].whole]
        positions = np.arange(relations.sizes[whole])
        sources.append(offset[whole] + positions)
        targets.append(offset[factor] + positions // inner % size)
    empty = np.zeros(0, dtype=np.int64)
    rows, columns = np.concatenate([empty, *sources]), np.concatenate([empty, *targets])
    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(total, total))
    _, label = connected_components(graph, directed=False)

    frozen_by: dict[int, Freeze] = {}
    for dim_root, freeze in frozen.items():
        start = offset[dim_root]
        for component in np.unique(label[start : start + relations.sizes[dim_root]]).tolist():
            frozen_by.setdefault(component, freeze)
    return _collect(trace, root, offset, label, frozen_by)


def _freeze_untouched(trace: Trace, root: list[int], frozen: dict[int, Freeze]) -> None:
    """A parameter that no operation touched might belong to any class of its sizes: those classes are vetoed."""
    relations = trace.relations
    sizes = {relations.sizes[d]: name for name in trace.untouched for d in trace.tensors[name]}
    for name, dims in trace.tensors.items():
        for dim in dims:
            if relations.sizes[dim] in sizes and name not in trace.buffers:
                reason = f"{sizes[relations.sizes[dim]]} was not used by the example input and has this size"
                frozen.setdefault(root[dim], Freeze(dim, reason, relations.current))


def _collect(
    trace: Trace,
    root: list[int],
    offset: Mapping[int, int],
    label: np.ndarray,
    frozen_by: Mapping[int, Freeze],
) -> tuple[tuple[CouplingClass, ...], tuple[FrozenDim, ...]]:
    relations = trace.relations
    places: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    frozen_dims = []
    for name, dims in trace.tensors.items():
        for axis, dim in enumerate(dims):
            size = relations.sizes[dim]
            if size <= 1:
                continue
            start = offset[root[dim]]
            stuck: dict[Freeze, list[int]] = {}
            for position, component in enumerate(label[start : start + size].tolist()):
                freeze = frozen_by.get(component)
                if freeze is None:
                    places[component].append((name, axis, position))
                else:
                    stuck.setdefault(freeze, []).append(position)
            for freeze, positions in stuck.items():
                operation = str(relations.operations[freeze.operation]) if freeze.operation >= 0 else "(model)"
                frozen_dims.append(FrozenDim(name, axis, tuple(positions), freeze.reason, operation))
    alike: dict[tuple, list[dict]] = defaultdict(list)
    for unit in places.values():
        by_dim: dict[tuple[str, int], list[int]] = defaultdict(list)
        for name, axis, position in unit:
            by_dim[name, axis].append(position)
        if all(name in trace.buffers for name, _ in by_dim):
            continue  # a class of unused buffers proves nothing
        alike[tuple((key, len(value)) for key, value in by_dim.items())].append(by_dim)
    classes = []
    for signature, units in alike.items():
        members = tuple(
            Member(name, axis, np.array([unit[name, axis] for unit in units]), name in trace.buffers)
            for (name, axis), _ in signature
        )
        classes.append(CouplingClass(members))
    return tuple(classes), tuple(frozen_dims)

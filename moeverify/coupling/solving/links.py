"""Decisions about whole dimensions: which are equal, which are frozen, which factor of a product can be removed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from moeverify.coupling.relations import Freeze, Product, Relations, Trace
from moeverify.coupling.solving.containment import closure, wholes
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER, EQUAL_PARTS, lone_slices, slices_in_halves
from moeverify.coupling.solving.union_find import UnionFind


@dataclass(frozen=True, eq=False)
class Links:
    """Relations of a trace with every choice made.

    ``root[dim]``: the representative of all dimensions equal to ``dim``. ``frozen``: root → the freeze that reached it.
    ``chosen``: product number → ``(factor root, factor size, inner stride)``. Position ``i`` of the whole belongs to
    position ``i // inner % size`` of the factor.
    """

    relations: Relations
    root: list[int]
    frozen: Mapping[int, Freeze]
    chosen: Mapping[int, tuple[int, int, int]]


def link(trace: Trace) -> Links:
    """Merge equal dimensions, freeze what must stay and choose the factor of each product that can be removed."""
    relations = trace.relations
    finder = UnionFind(relations)
    root = [finder.find(dim) for dim in range(len(relations.sizes))]
    splits = [parts for parts in _equal_splits(relations, root) if len({root[p] for p in parts}) > 1]
    cuts = list(lone_slices(trace, root))
    weights = _Weights(trace, root)
    held: set[int] = set()
    while True:
        freezing = _Freezing(relations, root)
        for freeze in relations.freezes:
            freezing.start(root[freeze.dim], freeze)
        _freeze_untouched(trace, root, freezing)
        for number in sorted(held):
            for part in splits[number]:
                freezing.start(root[part], Freeze(part, EQUAL_PARTS, relations.current))
        freezing.spread()
        for cut in cuts:
            if root[cut.part] not in freezing.frozen:
                freezing.start(root[cut.whole], Freeze(cut.whole, CUT_BY_NUMBER, cut.operation))
        freezing.spread()
        links = Links(relations, root, freezing.frozen, freezing.choose(weights))
        uneven = {number for number, parts in enumerate(splits) if not _shrink_alike(parts, links)} - held
        if not uneven:
            return links
        held |= uneven


def fix_factors(trace: Trace, links: Links, places: Iterable[tuple[str, int]]) -> tuple[Trace, Links]:
    """Freeze the factor that could be removed from these parameter dimensions, so that another factor can be.

    Example: in a dimension of heads times channels, the number of heads stays and channels inside the heads can be cut.
    Returns the trace and links with that.
    """
    roots = {links.root[trace.tensors[name][axis]] for name, axis in places}
    relations = trace.relations
    held = []
    for number, (factor, _, _) in links.chosen.items():
        product = relations.products[number]
        if links.root[product.whole] in roots:
            dim = next(f for f in product.factors if links.root[f] == factor)
            held.append(Freeze(dim, "only dimensions inside heads were asked for", relations.current))
    if not held:
        return trace, links
    trace = replace(trace, relations=replace(relations, freezes=[*relations.freezes, *held]))
    return trace, link(trace)


def stated_frozen(relations: Relations) -> Callable[[int], bool]:
    """A predicate: whether the relations recorded so far already freeze a dimension."""
    finder = UnionFind(relations)
    freezing = _Freezing(relations, [finder.find(dim) for dim in range(len(relations.sizes))])
    for freeze in relations.freezes:
        freezing.start(finder.find(freeze.dim), freeze)
    freezing.spread()
    return lambda dim: finder.find(dim) in freezing.frozen


def _equal_splits(relations: Relations, root: list[int]) -> Iterator[tuple[int, ...]]:
    """Sets of dimensions that are equal parts of one dimension."""
    yield from relations.balances
    yield from slices_in_halves(relations, root)


def _shrink_alike(parts: tuple[int, ...], links: Links) -> bool:
    """Whether the parts of an equal split lose the same positions.

    True if all are products with one common factor and that factor is removed, e.g. the heads of keys and values in
    one projection.
    """
    roots = {links.root[part] for part in parts}
    if len(roots) == 1 or all(root in links.frozen for root in roots):
        return True
    factors: dict[int, set[tuple[int, int, int]]] = {root: set() for root in roots}
    for number, choice in links.chosen.items():
        whole = links.root[links.relations.products[number].whole]
        if whole in factors:
            factors[whole].add(choice)
    return bool(set.intersection(*factors.values()))


class _Freezing:
    """Spreads freezes over dimensions, parts and factors; each dimension is visited once."""

    def __init__(self, relations: Relations, root: list[int]) -> None:
        self.relations = relations
        self.frozen: dict[int, Freeze] = {}
        self.products = [(root[p.whole], tuple(root[f] for f in p.factors)) for p in relations.products]
        self._waiting: list[int] = []
        self._parts: dict[int, list[int]] = defaultdict(list)
        self._places: dict[int, list[tuple[int, slice]]] = defaultdict(list)
        self._free: dict[int, np.ndarray] = {}
        self._free_count: dict[int, int] = {}
        for segment in relations.segments:
            whole, part = root[segment.whole], root[segment.part]
            self._parts[whole].append(part)
            end = segment.start + segment.step * relations.sizes[segment.part]
            self._places[part].append((whole, slice(segment.start, end, segment.step)))
        self._of: dict[int, list[int]] = defaultdict(list)
        for number, (whole, factors) in enumerate(self.products):
            for dim in {whole, *factors}:
                self._of[dim].append(number)

    def start(self, dim: int, freeze: Freeze) -> None:
        """Freeze a root; the first reason given stays."""
        if dim not in self.frozen:
            self.frozen[dim] = freeze
            self._waiting.append(dim)

    def spread(self) -> None:
        """Spread freezes: to parts and factors of a frozen dimension, and to a dimension without a free part."""
        while self._waiting:
            dim = self._waiting.pop()
            freeze = self.frozen[dim]
            for part in self._parts[dim]:
                self.start(part, freeze)
            for whole, place in self._places[dim]:
                if whole not in self.frozen and not self._keeps_free_positions(whole, place):
                    self.start(whole, freeze)
            for number in self._of[dim]:
                whole, factors = self.products[number]
                if whole in self.frozen:
                    for factor in factors:
                        self.start(factor, self.frozen[whole])
                elif all(factor in self.frozen for factor in factors):
                    self.start(whole, self.frozen[factors[0]])

    def _keeps_free_positions(self, whole: int, place: slice) -> bool:
        """Whether a dimension has positions outside its frozen parts, after ``place`` joins them."""
        free = self._free.setdefault(whole, np.ones(self.relations.sizes[whole], dtype=bool))
        self._free_count[whole] = self._free_count.get(whole, len(free)) - int(free[place].sum())
        free[place] = False
        return self._free_count[whole] > 0

    def _other_factor(self, product: Product, taken: int) -> str:
        sizes = [self.relations.sizes[factor] for factor in product.factors]
        divided = " x ".join(map(str, sizes))
        return f"the forward divides a dimension into {divided}, and only the factor {sizes[taken]} is pruned"

    def choose(self, weights: _Weights) -> dict[int, tuple[int, int, int]]:
        """Choose one free factor of each product and freeze the others.

        Whole heads and channels inside heads are different cuts of ``heads x head_dim``; only one can be offered. The
        outer factor is chosen, unless an inner one alone has more parameter elements than all dimensions divided so.
        Example of the exception: hidden channels in several streams. Freezes spread after each choice.

        Returns:
            product number → (factor root, factor size, inner stride).

        """
        divided_so: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for whole, factors in self.products:
            divided_so[factors].add(whole)
        for product, (_, factors) in zip(self.relations.products, self.products, strict=True):
            live = [k for k, factor in enumerate(factors) if factor not in self.frozen]
            if len(live) > 1:
                taken = max(live[1:], key=lambda k: weights.along(factors[k]))
                if weights.along(factors[taken]) <= weights.above(divided_so[factors]):
                    taken = live[0]
                reason = self._other_factor(product, taken)
                for k in live:
                    if k != taken:  # a square, the same factor twice, freezes itself
                        self.start(factors[k], Freeze(product.factors[k], reason, product.operation))
                self.spread()
        chosen: dict[int, tuple[int, int, int]] = {}
        for number, (_, factors) in enumerate(self.products):
            sizes = [self.relations.sizes[f] for f in self.relations.products[number].factors]
            for k, factor in enumerate(factors):
                if factor not in self.frozen:
                    chosen[number] = (factor, sizes[k], math.prod(sizes[k + 1 :]))
                    break
        return chosen


class _Weights:
    """Numbers of parameter elements that lie along dimensions."""

    def __init__(self, trace: Trace, root: list[int]) -> None:
        relations = trace.relations
        self._above = wholes(relations, root)
        self._owned: dict[int, dict[str, int]] = defaultdict(dict)
        for name, dims in trace.tensors.items():
            if name not in trace.buffers:
                for dim in dims:
                    self._owned[root[dim]][name] = math.prod(relations.sizes[d] for d in dims)

    def along(self, root: int) -> int:
        """Number of elements of the parameters that have this root among their dimensions."""
        return sum(self._owned[root].values())

    def above(self, roots: Iterable[int]) -> int:
        """Number of elements of the parameters that have one of ``roots``, or a dimension that contains one as part or
        factor.
        """
        wholes = closure(roots, self._above)
        return sum({name: count for r in wholes for name, count in self._owned[r].items()}.values())


def _freeze_untouched(trace: Trace, root: list[int], freezing: _Freezing) -> None:
    """Freeze every dimension that has a size of an unused parameter.

    The trace does not show which class such a parameter belongs to.
    """
    relations = trace.relations
    sizes = {relations.sizes[d]: name for name in trace.untouched for d in trace.tensors[name]}
    if not sizes:
        return
    for dim, size in enumerate(relations.sizes):
        if size in sizes:
            reason = (
                f"{sizes[size]} was not used by the example input and has this size; give inputs that use it, take "
                "it out of the model, or leave its module alone (ignored_layers)"
            )
            freezing.start(root[dim], Freeze(dim, reason, relations.current))

"""Factors of dimensions that must keep their size.

They tell two cuts apart that give the same shape: fewer heads, or smaller heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moeverify.coupling.couplings import CouplingMap
from moeverify.coupling.relations import Segment

Dim = tuple[str, int]


@dataclass(frozen=True)
class FixedFactors:
    """Sizes of factors that must stay, by parameter dimension.

    ``sizes``: parameter dimension → (size of a factor → number of positions of the dimension that it divides). ``cut``:
    sizes of factors that may be cut. ``free``: parameter dimensions that may lose positions.
    """

    sizes: Mapping[Dim, Mapping[int, int]] = field(default_factory=dict)
    cut: Mapping[Dim, frozenset[int]] = field(default_factory=dict)
    free: frozenset[Dim] = frozenset()

    def fixes(self, value: int, slopes: Mapping[Dim, int], base: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a configuration entry with this value sets the size of a factor that must stay.

        ``slopes``: for each dimension, the positions that doubling the entry adds. Exception: an entry whose value is
        the whole size of a dimension that may lose positions.
        """
        if any(place in self.free and base[place[0]][place[1]] == slope == value for place, slope in slopes.items()):
            return False
        return any(self.sizes.get(place, {}).get(value) == slope for place, slope in slopes.items())

    def certain(self, place: Dim) -> set[int]:
        """Sizes of factors that must stay and that no cuttable factor of the same dimension shares."""
        return set(self.sizes.get(place, ())) - self.cut.get(place, frozenset())


def fixed_factors(couplings: CouplingMap) -> FixedFactors:
    """Sizes of the factors that must stay, for each parameter dimension that is a product.

    A projection to 4 heads of 16 channels can be halved to 2 heads of 16 or to 4 heads of 8. Its shape does not
    distinguish them; the trace does. A size that a cuttable factor of the same part has as well is left out, since it
    is ambiguous.
    """
    trace, links = couplings.trace, couplings.links
    products: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, (_, size, inner) in links.chosen.items():
        whole = trace.relations.products[number].whole
        products[links.root[whole]].append((size, inner, trace.relations.sizes[whole]))
    parts: dict[int, list[Segment]] = defaultdict(list)
    for segment in trace.relations.segments:
        if segment.step == 1:
            parts[links.root[segment.whole]].append(segment)
    places = {(name, axis): links.root[dim] for name, dims in trace.tensors.items() for axis, dim in enumerate(dims)}
    factors = {root: _factors_of(root, products, parts, links.root) for root in set(places.values())}
    sizes = {place: factors[root][0] for place, root in places.items() if factors[root][0]}
    cuts = {place: factors[places[place]][1] for place in sizes}
    free = {place for place, root in places.items() if root not in links.frozen}
    return FixedFactors(sizes, cuts, frozenset(free))


def _factors_of(
    root: int,
    products: Mapping[int, Sequence[tuple[int, int, int]]],
    parts: Mapping[int, Sequence[Segment]],
    roots: Mapping[int, int] | Sequence[int],
) -> tuple[dict[int, int], frozenset[int]]:
    """Sizes of a dimension's factors that must stay, each with the positions that it divides, and of those that may be
    cut.

    ``products``: (factor that may be cut, size inside of it, size of the whole) by dimension.
    """
    cut: set[int] = set()
    places: dict[int, set[int]] = defaultdict(set)
    for part, start in _with_parts(root, parts, roots):
        here = products.get(part, ())
        cut_here = {size for size, *_ in here}
        cut |= cut_here
        for size, inner, total in here:
            for stay in {inner, total // (size * inner)} - cut_here - {1}:
                places[stay].update(range(start, start + total))
    return {size: len(where) for size, where in places.items()}, frozenset(cut)


def _with_parts(
    root: int, parts: Mapping[int, Sequence[Segment]], roots: Mapping[int, int] | Sequence[int]
) -> Iterator[tuple[int, int]]:
    """A dimension and all its parts, recursively, as ``(root, start position)``."""
    seen, left = set(), [(root, 0)]
    while left:
        here = left.pop()
        if here in seen:
            continue
        seen.add(here)
        yield here
        left += [(roots[s.part], here[1] + s.start) for s in parts.get(here[0], ())]

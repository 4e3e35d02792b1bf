"""Which factor of a dimension is cut: the number of heads, or the size of each."""

from __future__ import annotations

from collections.abc import Mapping

from moeverify.coupling.couplings import CouplingMap

Held = Mapping[tuple[str, int], frozenset[int]]


def held_factors(couplings: CouplingMap) -> dict[tuple[str, int], frozenset[int]]:
    """For each parameter dimension that is a product, the sizes of its factors that stay as they are.

    A projection to 4 heads of 16 channels is halved by 2 heads of 16 as well as by 4 of 8; its shape says nothing of
    it, the trace does. A size that the cut factor has, too, is left out: it tells nothing.
    """
    trace, links = couplings.trace, couplings.links
    products: dict[int, list[tuple[int, int, int]]] = {}
    for number, (_, size, inner) in links.chosen.items():
        whole = trace.relations.products[number].whole
        products.setdefault(links.root[whole], []).append((size, inner, trace.relations.sizes[whole]))
    held = {}
    for name, dims in trace.tensors.items():
        for axis, dim in enumerate(dims):
            cut: set[int] = set()
            stay: set[int] = set()
            for size, inner, total in products.get(links.root[dim], ()):
                cut.add(size)
                stay |= {inner, total // (size * inner)}
            if stay := stay - cut - {1}:
                held[name, axis] = frozenset(stay)
    return held

"""Dimensions that a program views in more than one way.

A factor of a dimension lies between two strides: of ``whole = (heads, head_dim)``, ``heads`` is
``position // head_dim``. Two factors between the same strides are the same dimension. A factor that another view
divides is the product of the parts. Example: one projection is viewed as ``(key heads, 2 * head_dim)`` and as
``(value heads, head_dim)``; the value heads are ``(key heads, 2)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from moeverify.coupling.relations import Product, Relations
from moeverify.coupling.solving.union_find import UnionFind

Strides = tuple[int, int]  # inner and outer


def state_common_factors(relations: Relations) -> None:
    """Add the equalities and products that follow from several views of one dimension, up to a fixed point."""
    finder = UnionFind(relations)
    known = -1
    while (stated := len(relations.equals) + len(relations.products)) > known:
        known = stated
        for products in _by_whole(relations.products, finder):
            factors: dict[Strides, int] = {}
            for product in products:
                for strides, factor in _factors(relations, product):
                    _merge(relations, finder, factors.setdefault(strides, factor), factor, product.operation)
        _state_parts(relations, finder)


def _by_whole(products: Iterable[Product], finder: UnionFind) -> Iterator[list[Product]]:
    """Products with the same whole, where there are several."""
    result: dict[int, list[Product]] = defaultdict(list)
    for product in products:
        result[finder.find(product.whole)].append(product)
    return (alike for alike in result.values() if len(alike) > 1)


def _factors(relations: Relations, product: Product) -> Iterator[tuple[Strides, int]]:
    """Factors of a product, each with the strides between which it lies."""
    inner = 1
    for factor in reversed(product.factors):
        outer = inner * relations.sizes[factor]
        yield (inner, outer), factor
        inner = outer


def _merge(relations: Relations, finder: UnionFind, first: int, second: int, operation: int) -> None:
    if finder.find(first) != finder.find(second):
        finder.union(first, second)
        relations.equals.append((first, second, operation))


def _state_parts(relations: Relations, finder: UnionFind) -> None:
    """Add a product for each factor that another view of the same dimension divides further.

    Example: a dimension is viewed as ``(2, 6)`` and as ``(4, 3)``. Then ``6`` is ``(2, 3)`` and ``4`` is ``(2, 2)``.
    """
    sizes = relations.sizes
    stated = {(finder.find(p.whole), tuple(sizes[f] for f in p.factors)): p.factors for p in relations.products}
    for products in _by_whole(relations.products, finder):
        factors = {strides: (factor, p.operation) for p in products for strides, factor in _factors(relations, p)}
        cuts = sorted({stride for strides in factors for stride in strides})
        for (inner, outer), (factor, operation) in list(factors.items()):
            ends = [inner]
            for cut in cuts:
                if inner < cut < outer and cut % ends[-1] == 0 and outer % cut == 0:
                    ends.append(cut)
            if len(ends) == 1:
                continue
            parts = list(zip(ends, [*ends[1:], outer], strict=True))[::-1]
            key = finder.find(factor), tuple(o // i for i, o in parts)
            if key not in stated:
                for strides in parts:
                    if strides not in factors:
                        factors[strides] = relations.new_dims([strides[1] // strides[0]])[0], operation
                        finder.add()
                stated[key] = tuple(factors[strides][0] for strides in parts)
                relations.products.append(Product(factor, stated[key], operation))
            for strides, part in zip(parts, stated[key], strict=True):
                _merge(relations, finder, factors.setdefault(strides, (part, operation))[0], part, operation)

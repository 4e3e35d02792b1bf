"""Dimensions that contain a dimension as a part or a factor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from moeverify.coupling.relations import Relations


def wholes(relations: Relations, root: Sequence[int]) -> dict[int, set[int]]:
    """Root of each part and factor → roots that directly contain it."""
    result: dict[int, set[int]] = defaultdict(set)
    for segment in relations.segments:
        result[root[segment.part]].add(root[segment.whole])
    for product in relations.products:
        for factor in product.factors:
            result[root[factor]].add(root[product.whole])
    return result


def closure(start: Iterable[int], edges: Mapping[int, set[int]]) -> set[int]:
    """Transitive closure of ``start`` under ``edges``, ``start`` included."""
    result = set(start)
    waiting = list(result)
    while waiting:
        new = edges.get(waiting.pop(), set()) - result
        result |= new
        waiting += new
    return result

"""Dimensions that contain a dimension as a part or a factor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from moeverify.coupling.relations import Relations


def wholes(relations: Relations, root: Sequence[int]) -> dict[int, set[int]]:
    """Root of each part and factor → roots that directly contain it."""
    found: dict[int, set[int]] = defaultdict(set)
    for segment in relations.segments:
        found[root[segment.part]].add(root[segment.whole])
    for product in relations.products:
        for factor in product.factors:
            found[root[factor]].add(root[product.whole])
    return found


def closure(start: Iterable[int], edges: Mapping[int, set[int]]) -> set[int]:
    """Transitive closure of ``start`` under ``edges``, ``start`` included."""
    found = set(start)
    waiting = list(found)
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found

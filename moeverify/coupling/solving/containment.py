"""Which dimensions a dimension is a part or a factor of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from moeverify.coupling.relations import Relations


def wholes(relations: Relations, root: Sequence[int]) -> dict[int, set[int]]:
    """For the root of each part and factor the roots of what it is directly a part or factor of."""
    found: dict[int, set[int]] = defaultdict(set)
    for segment in relations.segments:
        found[root[segment.part]].add(root[segment.whole])
    for product in relations.products:
        for factor in product.factors:
            found[root[factor]].add(root[product.whole])
    return found


def closure(start: Iterable[int], edges: Mapping[int, set[int]]) -> set[int]:
    """Everything that ``edges`` lead to, ``start`` included."""
    found = set(start)
    waiting = list(found)
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found

"""Slices whose bounds are numbers to the dispatcher: whether a program would compute them anew cannot be seen.

Two guards say which dimensions such bounds hold. Where a slice meets something else of its size, a parameter or
another tensor, a bound that did not follow would fail loudly, so nothing needs to be held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moeverify.coupling.relations import Relations, Segment

if TYPE_CHECKING:
    from moeverify.coupling.relations import Trace

EQUAL_PARTS = "part of an equal split whose parts would have to shrink alike"
CUT_BY_NUMBER = "cut by a slice of which nothing else has the size, so that a wrong bound would show nowhere"


def slices_in_halves(relations: Relations, root: list[int]) -> Iterator[tuple[int, ...]]:
    """Slices that together cut a dimension into equal parts: their bounds may be computed from its size.

    Parts that go back to where each other came from (the rotation of rotary embeddings) shrink alike anyway.
    """
    slices: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    places: dict[tuple[int, int], set[int]] = defaultdict(set)
    for segment in relations.segments:
        whole, size = root[segment.whole], relations.sizes[segment.part]
        places[whole, root[segment.part]].add(segment.start)
        if _is_slice(relations, segment) and segment.start % size == 0:
            slices[whole, size].setdefault(segment.start, segment.part)
    for (whole, size), parts in slices.items():
        starts = set(range(0, relations.sizes[whole], size))
        alike = all(starts <= places[whole, root[part]] for part in parts.values())
        if len(starts) > 1 and starts == set(parts) and relations.sizes[whole] % size == 0 and not alike:
            yield tuple(parts.values())


def lone_slices(trace: Trace, root: list[int]) -> Iterator[Segment]:
    """Slices of part of a dimension whose size nothing else shares but slices.

    After something is removed, such a slice would take other positions than before without a shape telling. Equal parts
    of a whole dimension tell by their own shapes.
    """
    relations = trace.relations
    shared = {root[dim] for dims in trace.tensors.values() for dim in dims}
    for product in relations.products:
        shared.update(root[dim] for dim in (product.whole, *product.factors))
    starts: dict[tuple[int, int], set[int]] = defaultdict(set)
    for segment in relations.segments:
        whole, part = root[segment.whole], root[segment.part]
        shared.add(whole)
        starts[whole, part].add(segment.start)
        if not _is_slice(relations, segment):
            shared.add(part)
    for segment in relations.segments:
        whole, part = root[segment.whole], root[segment.part]
        every = range(0, relations.sizes[whole], relations.sizes[segment.part])
        if part not in shared and not starts[whole, part].issuperset(every):
            yield segment


def _is_slice(relations: Relations, segment: Segment) -> bool:
    return segment.step == 1 and relations.operations[segment.operation].name == "aten.slice"

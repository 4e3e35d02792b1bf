"""Slices with constant bounds: the trace does not show whether a program computes the bound from a size.

Two guards freeze dimensions that such a bound could leave wrong in silence. Exception: a slice that meets a parameter
or another tensor of its size. A wrong bound there raises a shape error, so nothing is frozen.

Example: ``a, b = x[..., :n], x[..., n:]`` with ``n`` an attribute that pruning does not update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moeverify.coupling.relations import Relations, Segment

if TYPE_CHECKING:
    from moeverify.coupling.relations import Trace

EQUAL_PARTS = "one part of an equal split: every part must lose the same positions"
CUT_BY_NUMBER = "sliced with a constant bound that no other tensor's shape would check"


def slices_in_halves(relations: Relations, root: list[int]) -> Iterator[tuple[int, ...]]:
    """Sets of slices that split a dimension into equal parts, e.g. the two halves of a gate and up projection.

    Exception: parts that are written back to each other's places, as in rotary embeddings. They shrink alike anyway.
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
    """Slices of a size that no parameter, view or other operation has, so that no shape error would show a wrong bound.

    After a removal such a slice would take other positions than before. Exception: equal parts of a whole dimension,
    whose shapes then disagree.
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

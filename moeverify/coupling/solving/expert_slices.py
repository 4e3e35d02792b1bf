"""Parameters that a loop takes apart by number: ``up[e * width : (e + 1) * width]`` for each expert ``e``.

Slices that cover a parameter's dimension in equal parts are what ``view(experts, width)`` makes of it, and related as
that is. A view of another size fails; a slice with bounds that did not follow takes other rows in silence. So whoever
cuts such a dimension must see that the slices have their new size (``Trace.sliced``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from moeverify.coupling.relations import Relations, Segment, Sliced
from moeverify.coupling.solving.union_find import UnionFind

_EXPERTS = "each part is taken by its number"


def state_expert_slices(relations: Relations, tensors: Mapping[str, tuple[int, ...]]) -> tuple[Sliced, ...]:
    """Replace slices that divide a dimension of two or more parameters into equal parts by a product.

    Exception: if any other dimension has the size of a part, since its shape would reveal a wrong bound.
    """
    finder = UnionFind(relations)
    root = [finder.find(dim) for dim in range(len(relations.sizes))]
    covered = _covered(relations, {dim for dims in tensors.values() for dim in dims})
    shared = _shared(relations, root, tensors, {id(s) for segments in covered.values() for s in segments})
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for whole, segments in covered.items():
        parts = tuple(root[s.part] for s in segments)
        if len(set(parts)) == len(parts) and shared.isdisjoint(parts):
            alike[parts].append(whole)
    result = []
    for wholes in alike.values():
        if len(wholes) < 2:
            continue
        segments = covered[wholes[0]]
        operation, count = segments[0].operation, len(segments)
        experts, width = relations.new_dims([count, relations.sizes[segments[0].part]])
        relations.freeze(experts, _EXPERTS, operation)
        relations.equals += [(s.part, width, s.operation) for s in segments]
        for whole in wholes:
            relations.product(whole, (experts, width))
            gone = {id(s) for s in covered[whole]}
            relations.segments = [s for s in relations.segments if id(s) not in gone]
            result.append(Sliced(whole, width, count, operation))
    return tuple(result)


def _covered(relations: Relations, own: set[int]) -> dict[int, list[Segment]]:
    """Parameter dimensions that slices cover completely in equal parts, each with its slices in order."""
    slices: dict[int, list[Segment]] = defaultdict(list)
    for segment in relations.segments:
        if segment.whole in own:
            slices[segment.whole].append(segment)
    result = {}
    for whole, segments in slices.items():
        segments.sort(key=lambda s: s.start)
        sizes = {relations.sizes[s.part] for s in segments}
        by_slice = all(relations.operations[s.operation].name == "aten.slice" and s.step == 1 for s in segments)
        (size, *others) = sizes
        starts = [s.start for s in segments]
        if by_slice and not others and size > 1 and starts == list(range(0, relations.sizes[whole], size)):
            result[whole] = segments
    return result


def _shared(relations: Relations, root: list[int], tensors: Mapping[str, tuple[int, ...]], taken: set[int]) -> set[int]:
    """Roots of the dimensions of parameters, of views, and of slices other than ``taken`` (ids of segments)."""
    dims = [dim for own in tensors.values() for dim in own]
    dims += [d for p in relations.products for d in (p.whole, *p.factors)]
    dims += [d for s in relations.segments if id(s) not in taken for d in (s.whole, s.part)]
    return {root[d] for d in dims}

"""Views that would divide a dimension differently after a cut.

Example: ``view(batch, length, 4, -1)`` runs with any number of channels left, but makes four smaller heads instead of
fewer heads. The trace names the factor that is cut; every other factor must keep its size at the same view.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from moeverify.coupling.couplings import CouplingMap
from moeverify.coupling.solving.containment import closure, wholes
from moeverify.pruning.configuration.factors import Dim
from moeverify.pruning.constants.numbers import RESHAPES, Forward, Step
from moeverify.pruning.plan.plan import Reason

Shape = tuple[int, ...]
_VIEWS = frozenset(f"aten.{name}" for name in RESHAPES)


@dataclass(frozen=True)
class View:
    """A view that divides a dimension, e.g. ``view(batch, length, 4, -1)``.

    ``number`` of ``count``: its position among the views of its module. ``factors``: sizes of the factors, ``None`` for
    the one that is cut. ``places``: parameter dimensions that the view divides. ``step``, ``line``: set by
    ``changed_views``, the operation and line of code that divide differently after the cut.
    """

    module: str
    number: int
    count: int
    factors: tuple[int | None, ...]
    places: frozenset[Dim]
    step: int = field(default=-1, compare=False)
    line: str = field(default="", compare=False)

    @property
    def reason(self) -> Reason:
        """Reason for leaving the divided dimension alone."""
        sizes = ", ".join("..." if size is None else str(size) for size in self.factors)
        return Reason(
            f"the forward of {self.module or 'the model'} would no longer divide it into ({sizes})", self.line
        )


def views_of(couplings: CouplingMap) -> tuple[View, ...]:
    """Views in a trace that divide a prunable dimension of a parameter."""
    trace, links = couplings.trace, couplings.links
    relations = trace.relations
    where: dict[int, int] = {}
    counts: Counter = Counter()
    for number, operation in enumerate(relations.operations):
        if operation.name in _VIEWS:
            where[number] = counts[operation.module]
            counts[operation.module] += 1
    above = wholes(relations, links.root)
    owned: dict[int, set[Dim]] = defaultdict(set)
    for name, dims in trace.tensors.items():
        for axis, dim in enumerate(dims):
            owned[links.root[dim]].add((name, axis))
    result: dict[View, None] = {}
    for number, (cut, *_) in links.chosen.items():
        product = relations.products[number]
        if product.operation not in where:
            continue
        module = relations.operations[product.operation].module
        factors = tuple(None if links.root[f] == cut else relations.sizes[f] for f in product.factors)
        places = frozenset(place for root in closure([links.root[product.whole]], above) for place in owned[root])
        if places:
            result.setdefault(View(module, where[product.operation], counts[module], factors, places))
    return tuple(result)


def changed_views(views: Sequence[View], before: Forward, after: Forward) -> list[View]:
    """Views at which a factor other than the cut one changed its size.

    Exception: a module that takes more or fewer views than in the trace is not judged.
    """
    ours, theirs = _by_module(before), _by_module(after)
    result = []
    for view in views:
        old, new = ours.get(view.module, ()), theirs.get(view.module, ())
        if len(old) != view.count or len(new) != view.count:
            continue
        first, second = before.steps[old[view.number]], after.steps[new[view.number]]
        if not _as_before(view.factors, list(_sides(before, first)), list(_sides(after, second))):
            result.append(replace(view, step=new[view.number], line=second.line))
    return result


def _by_module(forward: Forward) -> dict[str, list[int]]:
    """Step numbers of the views of each module."""
    result: dict[str, list[int]] = defaultdict(list)
    for number, step in enumerate(forward.steps):
        if step.operation in _VIEWS:
            result[step.module].append(number)
    return result


def _sides(forward: Forward, step: Step) -> Iterator[Shape]:
    """Shapes of the first input and the first output of an operation."""
    yield forward.shapes[step.inputs[0]] if 0 in step.inputs else ()
    yield forward.shapes[step.outputs[0]] if step.outputs else ()


def _as_before(factors: Sequence[int | None], old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """Whether the factors lie where they lay before, with the same sizes; ``True`` if they cannot be found."""
    found = False
    if [len(shape) for shape in old] != [len(shape) for shape in new]:
        return True
    for side, other in ((0, 1), (1, 0)):
        axes = [axis for axis, size in enumerate(old[side]) if size != 1]
        for start in range(len(axes) - len(factors) + 1):
            here = axes[start : start + len(factors)]
            sizes = [old[side][axis] for axis in here]
            if not _fit(factors, sizes) or math.prod(sizes) not in old[other]:
                continue
            found = True
            if _fit(factors, [new[side][axis] for axis in here]):
                return True
    return not found and _divided_as_before(factors, old, new)


def _divided_as_before(factors: Sequence[int | None], old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """``_as_before`` for a view of several dimensions, e.g. ``[t, batch, heads * d]`` as ``[t, batch * heads, d]``."""
    for side in (0, 1):
        before, after = _parts(old[side], old[1 - side]), _parts(new[side], new[1 - side])
        for then, now in zip(before, after, strict=False):
            if len(then) == len(factors) > 1 and _fit(factors, then):
                return len(now) != len(factors) or _fit(factors, now)  # a factor of one leaves no trace in sizes
    return True


def _parts(shape: Shape, other: Shape) -> list[list[int]]:
    """Runs of factors that make up each dimension of both shapes; empty if the shapes have none in common."""
    parts: list[list[int]] = [[] for _ in shape]
    rest = iter(other)
    theirs = 1
    for mine, size in zip(parts, shape, strict=True):
        while size > 1:
            while theirs == 1:
                theirs = next(rest, 0)
            common = math.gcd(size, theirs)
            if theirs == 0 or common == 1:
                return []
            mine.append(common)
            size, theirs = size // common, theirs // common
    return parts


def _fit(factors: Sequence[int | None], sizes: Sequence[int]) -> bool:
    return all(factor in (None, size) for factor, size in zip(factors, sizes, strict=True))

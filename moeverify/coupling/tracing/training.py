"""Parameters that only a training forward uses, such as the noise of a router.

In evaluation nothing shows which channels they belong to. A second forward, of a copy without weights, runs the modules
around them in training mode. Its relations are added to those of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from moeverify.coupling.relations import Relations, Trace
from moeverify.coupling.solving.links import link
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.errors import TraceError

TraceCopy = Callable[[nn.Module, frozenset[str]], Trace]


def with_training(model: nn.Module, traced: Trace, trace_copy: TraceCopy) -> Trace:
    """``traced`` with the relations of a training forward, if that uses parameters that ``traced`` did not, or not for
    its output.

    ``trace_copy`` traces a copy of the model with the named modules in training mode. The first trace stays alone if
    the copy does not run, or if the second freezes what the first leaves free.
    """
    unused = (*traced.untouched, *traced.idle)
    if not unused:
        return traced
    try:
        second = trace_copy(without_weights(model), frozenset(_around(unused)))
    except (TraceError, TypeError, RuntimeError):  # a copy that cannot be made or does not run
        return traced
    used = set(traced.untouched) - set(second.untouched)
    if not used and not traced.idle:
        return traced
    both = _joined(traced, second)
    more = _frozen(both) - _frozen(traced)
    idle = {name for name, _ in more} & set(traced.idle)
    return traced if {name for name, _ in more} - idle else replace(both, in_training=frozenset(used | idle))


def _around(names: tuple[str, ...]) -> set[str]:
    """The modules that hold parameters, and all modules around them."""
    result = set()
    for name in names:
        while name:
            name = name.rpartition(".")[0]
            result.add(name)
    return result


def _frozen(traced: Trace) -> set[tuple[str, int]]:
    links = link(traced)
    return {
        (n, axis) for n, dims in traced.tensors.items() for axis, d in enumerate(dims) if links.root[d] in links.frozen
    }


def _joined(first: Trace, second: Trace) -> Trace:
    """One trace of both forwards, whose parameters are the same."""
    a, b = first.relations, second.relations
    shift, later = len(a.sizes), len(a.operations)

    def dims(numbers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(number + shift for number in numbers)

    relations = Relations(
        sizes=[*a.sizes, *b.sizes],
        equals=[*a.equals, *((x + shift, y + shift, n + later) for x, y, n in b.equals)],
        segments=[
            *a.segments,
            *(
                replace(s, whole=s.whole + shift, part=s.part + shift, operation=s.operation + later)
                for s in b.segments
            ),
        ],
        products=[
            *a.products,
            *(
                replace(p, whole=p.whole + shift, factors=dims(p.factors), operation=p.operation + later)
                for p in b.products
            ),
        ],
        freezes=[*a.freezes, *(replace(f, dim=f.dim + shift, operation=f.operation + later) for f in b.freezes)],
        balances=[*a.balances, *map(dims, b.balances)],
        operations=[*a.operations, *b.operations],
        sums=[*a.sums, *((x + shift, y + shift, n + later) for x, y, n in b.sums)],
        lines={**a.lines, **{n + later: line for n, line in b.lines.items()}},
    )
    for name, mine in first.tensors.items():
        for one, other in zip(mine, second.tensors.get(name, ()), strict=False):
            relations.equal(one, other + shift)
    untouched = tuple(name for name in first.untouched if name in second.untouched)
    unknown = {**second.unknown, **first.unknown}
    failed = {**second.failed, **first.failed}
    return replace(first, relations=relations, untouched=untouched, unknown=unknown, failed=failed)

"""The shapes that a pruned model's forward should have, by the trace: what is cut has its new size, what is frozen the
old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from moeverify.coupling.relations import Trace
from moeverify.coupling.solving.links import Links, fix_factors, link
from moeverify.coupling.tracing.trace import trace
from moeverify.errors import TraceError
from moeverify.models.forward import Example
from moeverify.pruning.constants.numbers import Forward, Step
from moeverify.pruning.plan.plan import Plan

Place = tuple[str, int]
Sizes = tuple[int | None, ...]
# Which of these run depends on how a forward is observed.
_NOTHING = frozenset({"aten.detach", "aten.alias", "aten.lift_fresh"})


@dataclass(frozen=True, eq=False)
class Expectations:
    """Expected shapes of a forward without weights, from a trace of the same forward."""

    trace: Trace
    links: Links

    def of(self, plan: Plan) -> list[tuple[str, tuple[Sizes, ...]]]:
        """Name and output sizes of every operation after ``plan``; ``None`` where the trace does not give a size."""
        known: dict[int, int] = {}
        held = True
        for name, dims in self.trace.tensors.items():
            for axis, dim in enumerate(dims):
                root = self.links.root[dim]
                kept = plan.keep.get((name, axis))
                known[root] = self.trace.relations.sizes[dim] if kept is None else kept.shape[-1]
                held = held and (kept is None or root not in self.links.frozen)
        if held:  # else this forward, on imagined data, freezes what the real one does not
            known.update({r: self.trace.relations.sizes[r] for r in self.links.frozen if r not in known})
        for sliced in self.trace.sliced:
            if (whole := known.get(self.links.root[sliced.whole])) is not None and whole % sliced.parts == 0:
                known[self.links.root[sliced.part]] = whole // sliced.parts
        made: dict[int, list[Sizes]] = {}
        for operation, dims in self.trace.made:
            made.setdefault(operation, []).append(tuple(known.get(self.links.root[d]) for d in dims))
        return [(op.name, tuple(made.get(n, ()))) for n, op in enumerate(self.trace.relations.operations)]


def expectations(model: nn.Module, example: Example, held: Iterable[Place] = ()) -> Expectations | None:
    """Expected shapes from a trace of a model without weights; ``None`` if its forward needs them.

    ``held``: projections that keep their number of heads.
    """
    try:
        traced = trace(model, example, keep_made=True)
    except TraceError:
        return None
    # What imagined data left out is no reason to freeze all dimensions of its size.
    traced = replace(traced, untouched=())
    return Expectations(*fix_factors(traced, link(traced), held))


def first_unexpected(wanted: Sequence[tuple[str, tuple[Sizes, ...]]], forward: Forward) -> int | None:
    """Number of the first operation whose result has another shape than expected; ``None`` if there is none.

    The comparison ends where the two sequences of operations differ.
    """
    for (number, step), (name, shapes) in zip(*_comparable(wanted, forward), strict=False):
        if step.operation != name:
            return None
        made = [forward.shapes[value] for value in step.outputs if forward.makers.get(value) == number]
        for shape, expected in zip(made, shapes, strict=False):
            if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected, strict=True)):
                return number
    return None


def all_expected(wanted: Sequence[tuple[str, tuple[Sizes, ...]]], forward: Forward) -> bool:
    """Whether a forward runs exactly the expected operations, so that every shape was compared."""
    steps, expected = _comparable(wanted, forward)
    return [step.operation for _, step in steps] == [name for name, _ in expected]


def _comparable(
    wanted: Sequence[tuple[str, tuple[Sizes, ...]]], forward: Forward
) -> tuple[list[tuple[int, Step]], list[tuple[str, tuple[Sizes, ...]]]]:
    """Numbered steps of a forward, and the expected operations, without steps that change nothing or that are our own
    code.
    """
    steps = [(number, step) for number, step in enumerate(forward.steps) if step.operation not in _NOTHING]
    return steps, [(name, sizes) for name, sizes in wanted if name not in _NOTHING and name[0] != "("]

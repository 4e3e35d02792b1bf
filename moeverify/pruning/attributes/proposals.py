"""Attributes that may repeat a size which a plan changes, with the values that they would have then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.pruning.attributes.change import AttributeChange
from moeverify.pruning.attributes.slots import Slot, slots_of
from moeverify.pruning.plan.plan import Cut, Plan


@dataclass(frozen=True)
class Proposal:
    """Changes that stand or fall together: one attribute, on all modules of one type, for one kind of class.

    ``near``: whether the value is a size or a multiple of the units of a class, not merely a divisor of them.
    """

    changes: tuple[AttributeChange, ...]
    near: bool = True

    @property
    def slots(self) -> frozenset[Slot]:
        """Slots that the proposal sets."""
        return frozenset(change.slot for change in self.changes)

    def __str__(self) -> str:
        more = f" (and {len(self.changes) - 1} alike)" if len(self.changes) > 1 else ""
        return f"{self.changes[0]}{more}"


def proposals(model: nn.Module, plan: Plan, kind_of: Callable[[PruningClass], Hashable]) -> tuple[Proposal, ...]:
    """Every attribute that might have to change with ``plan``, one proposal for each value that it might get.

    ``kind_of`` is the same for classes that are alike in different layers. A module follows the classes that touch its
    own parameters, or those of the nearest module around it that has any.
    """
    reach = _Reach(plan)
    result: dict[tuple, dict[AttributeChange, None]] = defaultdict(dict)
    for slot, value in slots_of(model):
        if value < 2:
            continue
        owner = type(model.get_submodule(slot.module))
        by_kind: dict[Hashable, list[Cut]] = defaultdict(list)
        for cut in reach.cuts_at(slot.module):
            by_kind[kind_of(cut.pruning_class)].append(cut)
        for kind, cuts in by_kind.items():
            for near, values in enumerate((_divisors(value, cuts), _sizes(value, cuts, plan))):
                # Classes of one kind that keep different counts give a shared attribute no single value.
                if len(values) == 1 and (new := values.pop()) != value:
                    key = (owner, slot.steps, value, kind, bool(near))
                    result[key][AttributeChange(slot, value, new)] = None
    return tuple(_distinct(Proposal(tuple(changes), key[-1]) for key, changes in result.items()))


def _distinct(candidates: Iterable[Proposal]) -> Iterator[Proposal]:
    """One proposal for each set of changes; one that is ``near`` is preferred."""
    by_changes: dict[frozenset[AttributeChange], Proposal] = {}
    for proposal in candidates:
        key = frozenset(proposal.changes)
        if key not in by_changes or proposal.near:
            by_changes[key] = proposal
    yield from by_changes.values()


def _sizes(value: int, cuts: Iterable[Cut], plan: Plan) -> set[int]:
    """New values of an attribute that is the size of a dimension, or a multiple of the units of a class."""
    result: set[int] = set()
    for cut in cuts:
        largest = 0
        for member in cut.pruning_class.coupling.members:
            place = (member.parameter, member.dim)
            size = plan.sizes.get(place, 0)
            largest = max(largest, size)
            if size == value:
                result.add(plan.keep[place].shape[-1])
        if value % cut.before == 0 and value <= largest:
            result.add(value // cut.before * cut.after)
    return result


def _divisors(value: int, cuts: Iterable[Cut]) -> set[int]:
    """New values of an attribute that divides the units of a class."""
    parts = [cut for cut in cuts if cut.before % value == 0 and cut.before != value]
    return {value * cut.after // cut.before for cut in parts if value * cut.after % cut.before == 0}


class _Reach:
    """Cuts that touch the parameters inside a module."""

    def __init__(self, plan: Plan) -> None:
        self._inside: Mapping[str, dict[Cut, None]] = defaultdict(dict)
        for cut in plan.cuts:
            for name in cut.pruning_class.coupling.parameters:
                for path in _modules_around(name):
                    self._inside[path][cut] = None

    def cuts_at(self, module: str) -> list[Cut]:
        """The cuts that touch a module, or the nearest one around it that any touches."""
        for path in (module, *_modules_around(module)):
            if path in self._inside:
                return list(self._inside[path])
        return []


def _modules_around(name: str) -> Iterator[str]:
    """Paths of the modules that a parameter or module lies in, innermost first."""
    while name:
        name = name.rpartition(".")[0]
        yield name

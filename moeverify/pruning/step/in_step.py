"""From counts to a configuration that says them: sizes made expressible, constants kept, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles
from moeverify.pruning.configuration import ConfigUpdate, Probe, express, plan_update, shapes_of, wanted_shapes
from moeverify.pruning.configuration.express import dims_of
from moeverify.pruning.configuration.probe import Attribute, Entries, Move
from moeverify.pruning.constants.constants import Constants, keep_constants, merged
from moeverify.pruning.constants.derived import Derived, DerivedNumbers
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Adjustment, Reason


@dataclass(frozen=True, eq=False)
class Said:
    """Counts that the configuration can say, and how."""

    counts: Mapping[PruningClass, int]
    adjustments: tuple[Adjustment, ...]
    entries: Entries
    folds: tuple[Fold, ...]
    update: ConfigUpdate


def say(
    probe: Probe,
    wanted: Mapping[PruningClass, int],
    example: Example,
    roles: FoundRoles,
    *,
    round_to: int | None = None,
    named: frozenset[PruningClass] = frozenset(),
) -> Said:
    """Counts as near to ``wanted`` as the configuration can say without a change of what was trained.

    Classes whose size a constant of the architecture is derived from are left alone if no weight can take that over.
    Raises ``PruningRefused`` if that concerns a class among ``named``. ``example`` calls the model as the user does.
    """
    counts = dict(wanted)
    numbers = DerivedNumbers(probe, example, roles)
    adjustments: list[Adjustment] = []
    while True:
        expression = express(probe, counts, round_to=round_to, named=named)
        update = plan_update(probe, expression.entries, wanted_shapes(shapes_of(probe.model), expression.counts))
        constants = keep_constants(probe.model, update.constants(), example)
        derived = numbers.keep(update)
        moves = numbers.deciding(derived.stuck, expression.entries)
        guilty = [c for c in counts if _decides(probe, c, constants, expression.entries, moves)]
        hangs = f"{_first_stuck(constants, derived)} is derived from it, and no weight can take over the difference"
        reasons = dict.fromkeys(guilty, Reason(hangs)) or derived.divided(counts)
        if not reasons:
            break
        for c, reason in reasons.items():
            adjustments.append(Adjustment(c, counts.pop(c), c.coupling.size, reason))
            if c in named:
                raise PruningRefused(str(adjustments[-1]))
    if stuck := _first_stuck(constants, derived):
        raise PruningRefused(f"{stuck} would change with the sizes, and no weight can take over the difference")
    if derived.otherwise:
        raise PruningRefused(str(derived.otherwise[0].reason))
    folds = merged([*constants.folds, *derived.folds])
    return Said(expression.counts, (*adjustments, *expression.adjustments), expression.entries, folds, update)


def _first_stuck(constants: Constants, derived: Derived) -> str:
    """A constant that nothing takes over, as messages speak of it; empty if there is none."""
    named = [*(f"{path}.{name}" for path, name in constants.stuck), *(number.name for number in derived.stuck)]
    return named[0] if named else ""


def _decides(
    probe: Probe, pruning_class: PruningClass, constants: Constants, entries: Entries, moves: Sequence[Move]
) -> bool:
    """Whether a class is sized by an entry that changes, and that a constant which cannot be kept is derived from;
    ``moves`` are those that change such a number inside of a forward.
    """
    stuck: set[Attribute] = set(constants.stuck)
    dims = dims_of(pruning_class)
    return any(
        (not stuck.isdisjoint(move.attributes) or move in moves)
        and not dims.isdisjoint(move.slopes)
        and any(entries.get(path, probe.values[path]) != probe.values[path] for path in move.up)
        for move in probe.moves
    )

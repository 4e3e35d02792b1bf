"""From counts to a configuration that says them: sizes made expressible, constants kept, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.classes import PruningClass
from moeverify.pruning.configuration import (
    Adjustment,
    ConfigUpdate,
    Probe,
    express,
    plan_update,
    wanted_shapes,
)
from moeverify.pruning.configuration.constants import Constants, keep_constants
from moeverify.pruning.configuration.express import dims_of
from moeverify.pruning.configuration.probe import Attribute, Entries
from moeverify.pruning.folds import Fold


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
    run: Callable[[nn.Module], Any],
    *,
    round_to: int | None = None,
    named: frozenset[PruningClass] = frozenset(),
) -> Said:
    """Counts as near to ``wanted`` as the configuration can say without a change of what was trained.

    Classes whose size a constant of the architecture is derived from are left alone if no weight can take that over.
    Raises ``PruningRefused`` if that concerns a class among ``named``. ``run`` calls the model as the user does.
    """
    counts = dict(wanted)
    adjustments: list[Adjustment] = []
    while True:
        expression = express(probe, counts, round_to=round_to, named=named)
        update = plan_update(probe, expression.entries, wanted_shapes(probe.base, expression.counts))
        constants = keep_constants(probe.model, update.constants(), run)
        guilty = [c for c in counts if _decides(probe, c, constants, expression.entries)]
        if not guilty:
            break
        for c in guilty:
            path, name = constants.stuck[0]
            reason = f"{path}.{name} is derived from it, and no weight can take over the difference"
            adjustments.append(Adjustment(c, counts.pop(c), c.coupling.size, reason))
            if c in named:
                raise PruningRefused(str(adjustments[-1]))
    if constants.stuck:
        path, name = constants.stuck[0]
        raise PruningRefused(f"{path}.{name} would change with the sizes, and no weight can take over the difference")
    return Said(expression.counts, (*adjustments, *expression.adjustments), expression.entries, constants.folds, update)


def _decides(probe: Probe, pruning_class: PruningClass, constants: Constants, entries: Entries) -> bool:
    """Whether a class is sized by an entry that changes, and that a constant which cannot be kept is derived from."""
    stuck: set[Attribute] = set(constants.stuck)
    dims = dims_of(pruning_class)
    return any(
        not stuck.isdisjoint(move.attributes)
        and not dims.isdisjoint(move.slopes)
        and any(entries.get(path, probe.values[path]) != probe.values[path] for path in move.up)
        for move in probe.moves
    )

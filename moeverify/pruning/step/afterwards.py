"""Updates that follow from sizes, for groups that were not pruned as planned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles
from moeverify.models.skeleton import Shapes
from moeverify.pruning.configuration import ConfigUpdate, Probe, apply_update, plan_update, shapes_of
from moeverify.pruning.configuration.entries import find_entries
from moeverify.pruning.constants.constants import keep_constants, merged
from moeverify.pruning.constants.derived import DerivedNumbers
from moeverify.pruning.graph.live import Place
from moeverify.pruning.step.carry_out import bring_in_step

_RUNS_ONLY_HERE = "the model runs in memory and cannot be saved and loaded again"


def refuse_inexpressible(probe: Probe, removed: Mapping[Place, np.ndarray]) -> None:
    """Raise ``PruningRefused`` unless some configuration gives the sizes that are left without the positions
    ``removed``.
    """
    sizes = {name: list(shape) for name, shape in probe.base.items()}
    for (name, dim), positions in removed.items():
        if name in sizes:
            sizes[name][dim] -= len(positions)
    _update(probe, {name: tuple(shape) for name, shape in sizes.items()}, "nothing was changed")


def catch_up(model: nn.Module, probe: Probe, example: Example, roles: FoundRoles) -> None:
    """Update configuration and attributes of a model to the sizes that it has now; ``probe`` was made before the cut.

    Weights take over the constants that change, as in a plan. Raises ``PruningRefused`` if no configuration gives the
    sizes, or no weight takes over a constant; the model stays pruned.
    """
    shapes = {name: shape for name, shape in shapes_of(model).items() if name in probe.base}
    update = _update(probe, shapes, f"the groups were pruned, but {_RUNS_ONLY_HERE}")
    derived = DerivedNumbers(probe, example, roles).keep(update)
    if derived.obstacles:
        raise PruningRefused(
            f"the groups were pruned, but {derived.obstacles[0].name} would change with the sizes and no weight can "
            f"take over the difference; {_RUNS_ONLY_HERE}"
        )
    if derived.views:
        raise PruningRefused(f"the groups were pruned, but {derived.views[0].reason}; {_RUNS_ONLY_HERE}")
    apply_update(model, update, constants=False)
    constants = keep_constants(model, update.constants(), example)
    if constants.obstacles:
        path, name = constants.obstacles[0]
        raise PruningRefused(
            f"the groups were pruned, but {path}.{name} would change with the sizes and no weight can take over the "
            f"difference; {_RUNS_ONLY_HERE}"
        )
    bring_in_step(model, merged([*constants.folds, *derived.folds]), update)


def _update(probe: Probe, wanted: Shapes, consequence: str) -> ConfigUpdate:
    entries = find_entries(probe, wanted)
    if entries.wrong:
        name, dim = entries.wrong[0]
        raise PruningRefused(
            f"no configuration gives dimension {dim} of {name} a size of {wanted[name][dim]}; {consequence}"
        )
    return plan_update(probe, entries.entries, wanted)

"""What will be removed, before anything is: units per class, positions per parameter, shapes afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moeverify.pruning.classes import PruningClass
from moeverify.pruning.configuration import Adjustment
from moeverify.pruning.configuration.document import Path
from moeverify.pruning.folds import Fold


@dataclass(frozen=True, eq=False)
class Cut:
    """The units that one class keeps: ``[kept]``, or ``[experts, kept]`` for fused experts, in ascending order."""

    pruning_class: PruningClass
    kept: np.ndarray

    @property
    def before(self) -> int:
        """Units there were."""
        return self.pruning_class.coupling.size

    @property
    def after(self) -> int:
        """Units that stay (in each expert, if fused)."""
        return self.kept.shape[-1]


@dataclass(frozen=True, eq=False)
class Plan:
    """All cuts of one step. ``keep[name, dim]`` are the positions that stay, ``[kept]`` or ``[experts, kept]``.

    ``sizes[name, dim]`` is how many there were. ``entries`` are the new entries of the configuration by path, ``folds``
    the weights that take over a constant of the architecture, ``constants[module, attribute]`` its old and new value
    (not in a plan that was read from a file: they follow from the entries). ``adjustments`` names the classes that keep
    another number of units than was asked, and why. ``cuts`` is empty in a plan that was read from a file.
    """

    cuts: tuple[Cut, ...]
    keep: Mapping[tuple[str, int], np.ndarray]
    adjustments: tuple[Adjustment, ...] = ()
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    entries: Mapping[Path, int] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    constants: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a parameter or buffer after the plan."""
        new = list(shape)
        for (parameter, dim), kept in self.keep.items():
            if parameter == name:
                new[dim] = kept.shape[-1]
        return tuple(new)


def make_plan(
    cuts: Sequence[Cut], sizes: Mapping[tuple[str, int], int], adjustments: Sequence[Adjustment] = ()
) -> Plan:
    """Combine cuts; ``sizes`` gives the present size of each parameter's dimension."""
    removed: dict[tuple[str, int], list[np.ndarray]] = {}
    keep: dict[tuple[str, int], np.ndarray] = {}
    for cut in cuts:
        if cut.after == cut.before:
            continue
        for member in cut.pruning_class.coupling.members:
            key = (member.parameter, member.dim)
            if cut.pruning_class.experts:
                rows = [np.sort(member.positions[row].ravel()) for row in cut.kept]
                # A stack may hold more rows than there are experts (experts that compute nothing); they get as narrow.
                rows += [rows[-1]] * (sizes.get((member.parameter, 0), 0) - len(rows))
                keep[key] = np.stack(rows)
            else:
                gone = np.setdiff1d(np.arange(cut.before), cut.kept)
                removed.setdefault(key, []).append(member.positions[gone].ravel())
    for key, parts in removed.items():
        keep[key] = np.setdiff1d(np.arange(sizes[key]), np.concatenate(parts))
    return Plan(tuple(cuts), keep, tuple(adjustments), {key: sizes[key] for key in keep})

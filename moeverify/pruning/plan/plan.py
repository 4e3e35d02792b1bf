"""A plan: units that each class keeps, positions that each parameter keeps, shapes afterwards. It changes no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from moeverify.base.entries import EntryPath
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import Member
from moeverify.models.module_lists import renamed
from moeverify.pruning.attributes.change import AttributeChange
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.layer_cut import LayerCut


@dataclass(frozen=True, eq=False)
class Cut:
    """Units that one class keeps: ``[kept]``, or ``[experts, kept]`` where each expert keeps its own. Ascending."""

    pruning_class: PruningClass
    kept: np.ndarray

    @property
    def before(self) -> int:
        """Number of units in the original."""
        return self.pruning_class.coupling.size

    @property
    def after(self) -> int:
        """Number of units that stay; per expert, if each keeps its own."""
        return self.kept.shape[-1]

    def lost(self, member: Member, expert: int | None = None) -> np.ndarray:
        """Positions that a member loses, ascending; with ``expert`` those that this expert loses in its slice."""
        if self.kept.ndim == 1:
            return np.sort(member.positions[self._gone[0]].ravel())
        experts = range(len(self.kept)) if expert is None else (expert,)
        parts = [self.pruning_class.of_expert(member, e)[self._gone[e]] for e in experts]
        return np.sort(np.concatenate(parts).ravel())

    @cached_property
    def _gone(self) -> list[np.ndarray]:
        """Units that go, ascending: once, or by expert."""
        return [others(self.before, kept) for kept in np.atleast_2d(self.kept)]

    def as_first(self, member: Member) -> np.ndarray:
        """Positions that a member would lose if every expert lost the channel numbers that the first one loses,
        ascending.

        Used for renumbering: afterwards the channels of all experts have the same numbers.
        """
        return np.sort(member.positions[self._gone[0]].ravel())


@dataclass(frozen=True, eq=False)
class Plan:
    """All cuts of one step. ``keep[name, dim]`` are the positions that stay, ``[kept]``; of stacks ``[experts, kept]``.

    ``sizes[name, dim]`` is how many there were. ``entries``: new entries of the configuration by path. ``folds``:
    weights that take over a constant of the architecture. ``constants[module, attribute]``: its old and new value; a
    plan that was read from a file has none, since they follow from the entries. ``attributes`` are sizes that modules
    and their settings keep, set along with the cut; only a model without configuration has any. ``adjustments`` names
    the classes that keep another number of units than was asked, and why. ``cuts`` is empty in a plan that was read
    from a file. ``experts`` are the whole experts that go, layer by layer. ``layers``: whole layers that go; then
    ``entries`` are paths in the configuration of the shorter model. All names are those of the base.
    """

    cuts: tuple[Cut, ...]
    keep: Mapping[tuple[str, int], np.ndarray]
    adjustments: tuple[Adjustment, ...] = ()
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    entries: Mapping[EntryPath, int] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    constants: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    attributes: tuple[AttributeChange, ...] = ()
    experts: tuple[ExpertCut, ...] = ()
    layers: LayerCut | None = None

    @property
    def left_alone(self) -> list[dict[str, str | int]]:
        """Classes that keep all units although a share was asked for, as dictionaries."""
        return [a.to_dict() for a in self.adjustments if a.kept == a.pruning_class.coupling.size]

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of a parameter or buffer after the plan."""
        new = list(shape)
        for (parameter, dim), kept in self.keep.items():
            if parameter == name:
                new[dim] = kept.shape[-1]
        return tuple(new)

    def renamed(self, name: str) -> str | None:
        """The name of a parameter after the plan; ``None`` if it is removed."""
        return renamed(name, (*self.experts, *(self.layers.lists if self.layers else ())))

    def shapes(self, base: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors after the plan, under the names that they have then."""
        return {new: self.shape(name, shape) for name, shape in base.items() if (new := self.renamed(name)) is not None}

    def behind_layers(self) -> Plan:
        """The plan for the model that has lost its layers already, under the names that tensors have there.

        Raises ``KeyError`` with the name of a tensor that the plan cuts and whose layer it drops.
        """
        if self.layers is None:
            return self
        lists = self.layers.lists

        def moved(name: str) -> str:
            new = renamed(name, lists)
            if new is None:
                raise KeyError(name)
            return new

        return replace(
            self,
            keep={(moved(name), dim): kept for (name, dim), kept in self.keep.items()},
            sizes={(moved(name), dim): size for (name, dim), size in self.sizes.items()},
            folds=tuple(replace(fold, parameter=moved(fold.parameter)) for fold in self.folds),
            experts=tuple(cut.moved(moved) for cut in self.experts),
            layers=None,
        )


def others(size: int, positions: np.ndarray) -> np.ndarray:
    """All positions of a dimension but some, ascending."""
    rest = np.ones(size, dtype=bool)
    rest[positions] = False
    return np.flatnonzero(rest)


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
            if cut.pruning_class.experts and key not in cut.pruning_class.in_turn:
                rows = np.sort(member.positions[cut.kept].reshape(len(cut.kept), -1), axis=1)
                # A stack may hold more rows than there are experts (experts that compute nothing); they get as narrow.
                more = max(sizes.get((member.parameter, 0), 0) - len(rows), 0)
                keep[key] = np.concatenate([rows, np.repeat(rows[-1:], more, axis=0)])
            else:
                removed.setdefault(key, []).append(cut.lost(member))
    for key, parts in removed.items():
        keep[key] = others(sizes[key], np.concatenate(parts))
    return Plan(tuple(cuts), keep, tuple(adjustments), {key: sizes[key] for key in keep})


@dataclass(frozen=True)
class Reason:
    """Reason why a class loses fewer units than asked, and the ``file:line`` of the user's code that sets the size."""

    text: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.text}, at {self.line}" if self.line else self.text


@dataclass(frozen=True, eq=False)
class Adjustment:
    """A class that keeps another number of units than asked for, and the reason."""

    pruning_class: PruningClass
    wanted: int
    kept: int
    reason: Reason

    def __str__(self) -> str:
        size = self.pruning_class.coupling.size
        kept = "is left alone" if self.kept == size else f"keeps {self.kept} of {size} units"
        return f"{self.pruning_class.name} {kept}, {self.wanted} were asked: {self.reason}"

    def to_dict(self) -> dict[str, str | int]:
        """The adjustment as a dictionary: role, module, units before, asked for and kept, reason and line."""
        c = self.pruning_class
        sizes = {"units": c.coupling.size, "asked": self.wanted, "kept": self.kept}
        return {"role": c.role, "where": c.where, **sizes, "reason": self.reason.text, "line": self.reason.line}


def described(adjustments: Iterable[Adjustment]) -> str:
    """All adjustments in one message; classes that share a reason are named together."""
    by_reason: dict[Reason, list[str]] = {}
    for adjustment in adjustments:
        by_reason.setdefault(adjustment.reason, []).append(adjustment.pruning_class.name)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in by_reason.items())

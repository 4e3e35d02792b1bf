"""The keep map: which layer, expert and unit of the base each one of the pruned folder is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from moeverify.certification.matching.keys import in_type
from moeverify.certification.structure.structure import Slot, Structure

Shapes = Mapping[str, tuple[int, ...]]


class Unknown(Exception):
    """A dimension whose positions are not known, or not yet."""


@dataclass(eq=False)
class KeepMap:
    """Layers, experts and units of the base that stayed, as far as they could be recovered.

    ``lists[path]`` holds, for each entry of a list of modules that lost some, its number in the base. ``experts[n]``:
    base experts of MoE layer ``n`` in the pruned order. ``units[n]``: base units of coupling class ``n``. Its shape is
    ``[kept]``, or ``[experts, kept]`` where each fused expert keeps its own. -1: not in the base. ``rounded`` is the
    short type that values were rounded to, although they are stored in a longer one. ``twins``: tied tensors of the
    base, each with the name that its values are stored under.

    ``found``: positions of dimensions that no class explains, each by its own values alone. ``tokens``: base numbers of
    the tokens, along ``token_axes``, if the vocabulary changed.
    """

    structure: Structure
    base: Shapes
    pruned: Shapes
    lists: dict[str, np.ndarray] = field(default_factory=dict)
    experts: dict[int, np.ndarray] = field(default_factory=dict)
    units: dict[int, np.ndarray] = field(default_factory=dict)
    rounded: torch.dtype | None = None
    twins: Mapping[str, str] = field(default_factory=dict)
    found: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    tokens: np.ndarray | None = None
    token_axes: frozenset[tuple[str, int]] = frozenset()

    @property
    def loose(self) -> list[str]:
        """Tensors of which positions went or moved that no class explains."""
        sizes = {(name, dim): self.base[name][dim] for name, dim in self.found}
        return [key[0] for key, rows in self.found.items() if not np.array_equal(rows, np.arange(sizes[key]))]

    def as_stored(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Values of the base as the pruned folder stores them: in ``dtype``, rounded before if all are."""
        if self.rounded is not None and values.is_floating_point():
            values = values.to(self.rounded)
        return in_type(values, dtype)

    def to_base(self, name: str) -> str | None:
        """The base's name of a tensor of the pruned folder."""
        found = self._renumber(name, lambda numbers, n: int(numbers[n]) if n < len(numbers) else -1)
        return None if found is None else self.twins.get(found, found)

    def to_pruned(self, name: str) -> str | None:
        """The pruned folder's name of a tensor of the base; ``None`` if its layer or expert is gone."""

        def place(numbers: np.ndarray, n: int) -> int:
            places = np.flatnonzero(numbers == n)
            return int(places[0]) if len(places) else -1

        return self._renumber(name, place, into_base=False)

    def _renumber(self, name: str, number_of: Callable[[np.ndarray, int], int], into_base: bool = True) -> str | None:
        given: list[str] = []
        result: list[str] = []
        for part in name.split("."):
            path = ".".join(result if into_base else given)
            given.append(part)
            if part.isdigit() and path in self.lists:
                number = number_of(self.lists[path], int(part))
                if number < 0:
                    return None
                part = str(number)
            result.append(part)
        return ".".join(result)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a base tensor in the pruned folder. Raises ``Unknown`` if it has none to compare."""
        other = self.to_pruned(name)
        if other is None or other not in self.pruned or len(self.pruned[other]) != len(self.base[name]):
            raise Unknown(name)
        return self.pruned[other]

    def count(self, number: int) -> int:
        """Units that a class keeps (in each expert). Raises ``Unknown`` if no member shows it."""
        if number not in self._counts:
            self._counts[number] = 0  # while it is being counted, it tells nothing of others
            self._counts[number] = self._count(number)
        if (count := self._counts[number]) < 1:
            raise Unknown(f"class {number}")
        return count

    @cached_property
    def _counts(self) -> dict[int, int]:
        return {}

    def forget_counts(self) -> None:
        """Count again: other entries of the lists are known now."""
        self._counts.clear()

    def is_split(self, number: int) -> bool:
        """Whether members of a class show different numbers of units, e.g. of heads of queries and keys."""
        return len(self._votes(number)) > 1

    def _count(self, number: int) -> int:
        votes = self._votes(number)
        return max(votes, key=lambda kept: votes[kept], default=0)

    def _votes(self, number: int) -> dict[int, int]:
        item = self.structure.classes[number]
        votes: dict[int, int] = {}
        for member in item.coupling.members:
            key = (member.parameter, member.dim)
            if member.parameter not in self.base:
                continue
            try:
                old, new = self.base[member.parameter][member.dim], self.shape(member.parameter)[member.dim]
                units, width = member.positions.shape
                for slot in self.structure.slots[key]:
                    if slot.number != number:
                        others, each = slot.positions.shape
                        old, new = old - others * each, new - self.count(slot.number) * each
                if key in item.in_turn:
                    old, new = old // item.experts, new // self.expert_count(self.structure.moe_layer(item))
                    width //= item.experts
                kept, rest = divmod(new - (old - units * width), width)
            except Unknown:
                continue
            if not rest:
                votes[kept] = votes.get(kept, 0) + 1
        return votes

    def expert_count(self, layer: int | None) -> int:
        """Experts that a MoE layer keeps. Raises ``Unknown`` if no tensor shows it."""
        for (name, dim), axis in self.structure.axes.items():
            if axis.layer == layer and axis.stride == 1 and name in self.base:
                try:
                    return self.shape(name)[dim] - (self.base[name][dim] - axis.count)
                except Unknown:
                    continue
        raise Unknown(f"experts of MoE layer {layer}")

    def places(self, number: int, slot: Slot, name: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a class in a dimension before, ``[units, n]``, and after, ``[kept, n]``."""
        return slot.positions, self._ranks(name, dim)[slot.positions[: self.count(number)]]

    def in_turn(self, number: int, slot: Slot, name: str, dim: int, part: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """``places`` of one expert, after and before, in an expert-major dimension."""
        item, (after, before) = self.structure.classes[number], part
        each = slot.positions.reshape(len(slot.positions), item.experts, -1)
        stride = self.base[name][dim] // item.experts
        kept = self.count(number)
        held = np.ones(stride, dtype=bool)
        held[each[kept:, 0].ravel()] = False
        ranks = np.cumsum(held) - 1
        return each[:, before], ranks[each[:kept, 0]] + after * int(held.sum())

    def _ranks(self, name: str, dim: int) -> np.ndarray:
        """Position that each unit would have if every class kept its first units."""
        held = np.ones(self.base[name][dim], dtype=bool)
        for slot in self.structure.slots.get((name, dim), ()):
            held[slot.positions[self.count(slot.number) :].ravel()] = False
        if int(held.sum()) != self.shape(name)[dim]:
            raise Unknown(f"{name}, dimension {dim}")
        return np.cumsum(held) - 1

    def positions(self, name: str, dim: int, part: int | None = None) -> np.ndarray | None:
        """Base positions of a dimension in the pruned order, ``None`` if nothing of it moved.

        ``part`` is the pruned number of the expert whose slice it is. Raises ``Unknown``.
        """
        old, new = self.base[name][dim], self.shape(name)[dim]
        try:
            result = self._explained(name, dim, part)
        except Unknown:
            if (name, dim) not in self.found:
                raise
            result = self.found[name, dim]
        if result is not None and len(result) != new:
            raise Unknown(f"{name}, dimension {dim}")
        return None if result is None or (old == new and np.array_equal(result, np.arange(old))) else result

    def _explained(self, name: str, dim: int, part: int | None) -> np.ndarray | None:
        """Positions by experts, tokens or a class; ``None`` if none of these holds the dimension."""
        old, new = self.base[name][dim], self.shape(name)[dim]
        axis = self.structure.axes.get((name, dim))
        if self.tokens is not None and (name, dim) in self.token_axes:
            return self.tokens
        if axis is not None:
            if axis.layer not in self.experts:
                raise Unknown(f"experts of MoE layer {axis.layer}")
            return self._of_experts(name, dim)
        if (name, dim) in self.structure.slots:
            return self._of_units(name, dim, part)
        if old == new:
            return None
        raise Unknown(f"{name}, dimension {dim}")

    def _of_experts(self, name: str, dim: int) -> np.ndarray:
        axis = self.structure.axes[name, dim]
        experts = self.experts[axis.layer]
        if axis.stride == 1:
            return np.concatenate([experts, np.arange(axis.count, self.base[name][dim])])
        slots = self.structure.slots.get((name, dim), [])
        if not slots:
            return np.concatenate([np.arange(e * axis.stride, (e + 1) * axis.stride) for e in experts])
        (slot,) = slots
        if slot.number not in self.units:
            raise Unknown(name)
        parts = []
        for after, before in enumerate(experts):
            theirs, ours = self.in_turn(slot.number, slot, name, dim, (after, max(int(before), 0)))
            row = np.full(self.shape(name)[dim] // len(experts), -1, dtype=np.int64)
            row[ours - after * len(row)] = theirs[self._row(slot.number, after)]
            parts.append(row)
        return np.concatenate(parts)

    def _of_units(self, name: str, dim: int, part: int | None) -> np.ndarray:
        ranks = self._ranks(name, dim)
        result = np.full(self.shape(name)[dim], -1, dtype=np.int64)
        fixed = np.ones(len(ranks), dtype=bool)
        for slot in self.structure.slots[name, dim]:
            fixed[slot.positions.ravel()] = False
        result[ranks[fixed]] = np.flatnonzero(fixed)
        for slot in self.structure.slots[name, dim]:
            if slot.number not in self.units:
                raise Unknown(f"class {slot.number}")
            row = self._row(slot.number, part)
            taken = slot.positions[np.maximum(row, 0)]
            taken[row < 0] = -1
            result[ranks[slot.positions[: len(row)]]] = taken
        return result

    def _row(self, number: int, part: int | None) -> np.ndarray:
        units = self.units[number]
        if units.ndim == 1:
            return units
        row: np.ndarray = units[part if part is not None else 0]
        return row

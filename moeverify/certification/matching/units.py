"""Units of a coupling class recognised by content: hidden channels, heads, channels of an expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moeverify.certification.matching.keys import hash_rows, in_type, match
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.coupling.solving.classes import Member
from moeverify.models.folder.checkpoint import Checkpoint

# Values of a unit that are compared in one member, and the most members that are compared.
SAMPLES, MEMBERS = 24, 8
Part = tuple[int, int]  # (expert in the pruned folder, expert in the base)


@dataclass(frozen=True)
class _Keys:
    """Hashes of the units in one member: ``before`` in the base, ``after`` in the pruned folder."""

    before: np.ndarray
    after: np.ndarray


class UnitMatcher:
    """Matches each unit of the pruned folder to a unit of the base."""

    def __init__(self, base: Checkpoint, pruned: Checkpoint, keep: KeepMap) -> None:
        self.base, self.pruned, self.keep = base, pruned, keep

    def find(self, number: int, part: Part | None = None, *, trusting: bool = False) -> np.ndarray | None:
        """Base units of class ``number``, -1 where none fits; ``None`` if no member can be compared yet.

        ``part``: the expert whose slice is compared. ``trusting``: dimensions of unchanged size that are not matched
        yet count as unchanged.
        """
        count = self.keep.count(number)
        keys: list[_Keys] = []
        for member in self._members(number):
            if part is None and len(keys) > 1 and self._is_stack(member):
                break  # other members suffice; a stack of all experts would be read as a whole
            try:
                keys.append(self._keys(number, member, part, trusting))
            except (Unknown, IndexError):
                continue
            if len(keys) == MEMBERS:
                break
        if not keys:
            return None
        return combine(keys, count)

    def _members(self, number: int) -> Iterator[Member]:
        """Members, the most informative first: matrices, and those that no list of layers holds."""
        members = self.keep.structure.classes[number].coupling.members
        shapes = self.keep.base

        def rank(member: Member) -> tuple[bool, bool, bool]:
            name = member.parameter
            return (self._is_stack(member), len(shapes[name]) < 2, any(part.isdigit() for part in name.split(".")))

        known = [m for m in members if m.parameter in shapes and self.keep.to_pruned(m.parameter) in self.keep.pruned]
        yield from sorted(known, key=rank)

    def _is_stack(self, member: Member) -> bool:
        shape = self.keep.base[member.parameter]
        return len(shape) > 2 and any((member.parameter, dim) in self.keep.structure.axes for dim in range(len(shape)))

    def _keys(self, number: int, member: Member, part: Part | None, trusting: bool) -> _Keys:
        name, dim = member.parameter, member.dim
        keep, item = self.keep, self.keep.structure.classes[number]
        slot = next(s for s in keep.structure.slots[name, dim] if s.number == number)
        rows = (name, dim) in item.in_turn
        stack = (name, 0) in keep.structure.axes and not rows and part is not None
        if rows and part is not None:
            before_at, after_at = keep.in_turn(number, slot, name, dim, part)
        else:
            before_at, after_at = keep.places(number, slot, name, dim)
        before = self.base.read(name, part[1] if stack and part else None)
        slice_read = part[0] if stack and part else None
        after = self.pruned.read(keep.to_pruned(name) or "", slice_read)
        dtype = self.pruned.naming.tensors[keep.to_pruned(name) or ""].types(slice_read)[0]
        others = [d for d in range(len(keep.base[name])) if d != dim and not (stack and d == 0)]
        after_others, before_others = self._others(name, others, part, trusting)
        shift = 1 if stack else 0
        axis = dim - shift
        there = _sampled(before, axis, before_others, before_at)
        here = _sampled(after, axis, after_others, after_at)
        return _Keys(hash_rows(keep.as_stored(there, dtype)), hash_rows(in_type(here, dtype)))

    def _others(
        self, name: str, dims: Sequence[int], part: Part | None, trusting: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Positions sampled along ``dims``: a tensor for each in the pruned folder, then the same ones in the base."""
        generator = np.random.default_rng(len(name))
        after, before = [], []
        for dim in dims:
            size = self.keep.shape(name)[dim]
            chosen = np.sort(generator.integers(0, size, SAMPLES))
            try:
                positions = self.keep.positions(name, dim, part[0] if part else None)
            except Unknown:
                if not trusting or size != self.keep.base[name][dim]:
                    raise
                positions = None
            source = chosen if positions is None else positions[chosen]
            if (source < 0).any():
                fitting = source >= 0
                if not fitting.any():
                    raise Unknown(name)
                spare = np.flatnonzero(fitting)[np.arange(len(source)) % int(fitting.sum())]
                chosen, source = chosen[spare], source[spare]
            after.append(torch.as_tensor(chosen))
            before.append(torch.as_tensor(source))
        return after, before


def _sampled(values: torch.Tensor, axis: int, others: Sequence[torch.Tensor], at: np.ndarray) -> torch.Tensor:
    """``[units, values]``: what each unit has at its positions along ``axis`` and at sampled places elsewhere."""
    moved = values.movedim(axis, 0)
    index = torch.as_tensor(np.array(at))
    taken = moved[(index, *others)] if not others else moved[(index[..., None], *others)]
    return taken.reshape(len(at), -1)


def combine(keys: Sequence[_Keys], count: int) -> np.ndarray:
    """Base units that match in all members together; a majority of the members decides on the others."""
    before, after = np.zeros_like(keys[0].before), np.zeros_like(keys[0].after)
    for turn, item in enumerate(keys):
        weight = np.uint64(2 * turn + 0x9E3779B97F4A7C15 | 1)
        before, after = before + item.before * weight, after + item.after * weight
    if len(after) == len(before) and np.array_equal(before, after):
        return np.arange(count)
    units, _ = match(after, before)
    if (units >= 0).all():
        return units
    return _by_vote(keys, units)


def _by_vote(keys: Sequence[_Keys], units: np.ndarray) -> np.ndarray:
    """``units`` with each -1 replaced by the base unit that most members match, if any does."""
    votes = []
    for item in keys:
        if len(item.after) == len(item.before):
            same = item.after == item.before
        else:
            same = np.zeros(len(item.after), dtype=bool)
        theirs, several = match(item.after, item.before)
        theirs = np.where(several & same, np.arange(len(theirs)), theirs)
        votes.append(np.where(several & ~same, -1, theirs))
    table = np.stack(votes)
    result = units.copy()
    for unit in np.flatnonzero(units < 0):
        named = table[:, unit][table[:, unit] >= 0]
        if len(named):
            values, counts = np.unique(named, return_counts=True)
            result[unit] = values[np.argmax(counts)]
    return result

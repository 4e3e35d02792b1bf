"""One tensor of the base, read expert by expert, and what a plan leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from moeverify.models.folder.assembly import Assembly
from moeverify.models.folder.blocks import put_together
from moeverify.models.folder.memory import Memory
from moeverify.pruning.plan.apply import slice_kept
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Plan

Seen = Callable[[torch.Tensor], None]
Cuts = Mapping[int, np.ndarray]
# Types of the same size, for what moves values and does not compute.
_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Cutter:
    """Applies a plan to single tensors: cut, fold, renumber expert ids. Tensors go by their names in the base."""

    def __init__(self, plan: Plan) -> None:
        self._cuts: dict[str, dict[int, np.ndarray]] = {}
        for (name, dim), kept in plan.keep.items():
            self._cuts.setdefault(name, {})[dim] = kept
        self._folds: dict[str, Fold] = {fold.parameter: fold for fold in plan.folds}
        self._tables: dict[str, ExpertCut] = {name: cut for cut in plan.experts for name in cut.tables}
        self._memory = Memory()  # of single experts; what ``seen`` has not let go of is not used again

    def of(self, name: str, twins: tuple[str, ...], assembly: Assembly, dtype: torch.dtype, seen: Seen) -> torch.Tensor:
        """The part of a tensor that stays.

        ``seen`` is called with all of its values in order. ``twins``: further names of a tied tensor.
        """
        names = (name, *twins)
        cuts = next((self._cuts[n] for n in names if n in self._cuts), {})
        fold = next((self._folds[n] for n in names if n in self._folds), None)
        if assembly.is_stack:
            kept = self._cut_stack(assembly, dtype, cuts, seen)
        else:
            kept = _cut_whole(assembly, dtype, cuts, seen)
        if fold is not None:
            kept = fold.of(kept)
        if name in self._tables:
            kept = self._tables[name].renumbered(kept)
        return kept

    def only_cuts(self, name: str, twins: tuple[str, ...]) -> bool:
        """Whether the values that stay are those of the base, so that a stack can be cut expert by expert."""
        return name not in self._tables and not any(n in self._folds for n in (name, *twins))

    def experts(
        self, name: str, twins: tuple[str, ...], assembly: Assembly, dtype: torch.dtype, seen: Seen
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """What stays of each expert of a stack, with its new number. Values are valid until the next expert."""
        cuts = next((self._cuts[n] for n in (name, *twins) if n in self._cuts), {})
        place: torch.Tensor | None = None
        for part, new, values in self._parts(assembly, dtype, cuts, seen):
            kept = _cut_part(values, cuts, part, place)
            if kept is not values:  # which ``seen`` may still look at
                place = kept
            yield new, kept

    def read_through(self, assembly: Assembly, dtype: torch.dtype, seen: Seen) -> None:
        """Show all values of a tensor in order, and keep none."""
        if assembly.is_stack:
            for _ in self._parts(assembly, dtype, {}, seen):
                pass
        else:
            seen(put_together(assembly, dtype))

    def _cut_stack(self, assembly: Assembly, dtype: torch.dtype, cuts: Cuts, seen: Seen) -> torch.Tensor:
        """Cut expert by expert, so that a stack is never in memory before it is cut."""
        count = len(cuts.get(0, range(assembly.shape[0])))
        made: torch.Tensor | None = None
        for part, new, values in self._parts(assembly, dtype, cuts, seen):
            if made is None:
                first = _cut_part(values, cuts, part, None)
                made = torch.empty((count, *first.shape), dtype=dtype)
                made[new] = first
            else:
                _cut_part(values, cuts, part, made[new])
        assert made is not None  # a plan keeps at least one expert
        return made

    def _parts(
        self, assembly: Assembly, dtype: torch.dtype, cuts: Cuts, seen: Seen
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Old number, new number and values of each expert that stays; ``seen`` gets the others as well."""
        count = assembly.shape[0]
        stay = {int(old): new for new, old in enumerate(cuts.get(0, np.arange(count)))}
        for part in range(count):
            values = part_of(assembly, dtype, part, self._memory)
            seen(values)
            if part in stay:
                yield part, stay[part], values
            del values


def _cut_whole(assembly: Assembly, dtype: torch.dtype, cuts: Cuts, seen: Seen) -> torch.Tensor:
    values = put_together(assembly, dtype)
    seen(values)
    # One row of positions for each expert first: afterwards there may be fewer experts.
    for dim, kept in sorted(cuts.items(), key=lambda cut: -cut[1].ndim):
        values = slice_kept(values, dim, kept)
    return values.contiguous()


def _cut_part(values: torch.Tensor, cuts: Cuts, part: int, place: torch.Tensor | None) -> torch.Tensor:
    """What stays of one expert; in ``place`` if it is given and something is cut."""
    inner = [(dim, kept) for dim, kept in cuts.items() if dim]
    inner.sort(key=lambda cut: -cut[1].ndim)
    for number, (dim, kept) in enumerate(inner, 1):
        values = _taken(
            values, dim - 1, kept[part] if kept.ndim == 2 else kept, place if number == len(inner) else None
        )
    if place is not None and not inner:
        place.copy_(values)
    return values


def _taken(values: torch.Tensor, dim: int, kept: np.ndarray, place: torch.Tensor | None) -> torch.Tensor:
    """The positions ``kept`` along a dimension. NumPy takes columns several times as fast as PyTorch."""
    whole = _WHOLE_NUMBERS.get(values.dtype.itemsize)
    if dim == 0 or whole is None:
        return torch.index_select(values, dim, torch.as_tensor(kept), out=place)
    if place is None:
        place = values.new_empty((*values.shape[:dim], len(kept), *values.shape[dim + 1 :]))
    np.take(values.view(whole).numpy(), kept, axis=dim, out=place.view(whole).numpy())
    return place


def part_of(assembly: Assembly, dtype: torch.dtype, part: int, memory: Memory) -> torch.Tensor:
    """One expert of a stack: a view of the file if it is stored as it is, else in ``memory``."""
    if assembly.converter is not None or assembly.dtype != dtype:
        return put_together(assembly, dtype, memory, (part, part + 1))[0]
    values = assembly.read(part)
    assembly.reader.note_read(values.nbytes)
    return values

"""One tensor of the base, read slice by slice, and what a plan leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from moeverify.models.folder.assembly import Assembly
from moeverify.models.folder.blocks import put_together
from moeverify.pruning.plan.apply import slice_kept
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Plan

Seen = Callable[[torch.Tensor], None]
Cuts = Mapping[int, np.ndarray]


class Cutter:
    """Applies a plan to single tensors: cut, fold, renumber expert ids. Tensors go by their names in the base."""

    def __init__(self, plan: Plan) -> None:
        self._cuts: dict[str, dict[int, np.ndarray]] = {}
        for (name, dim), kept in plan.keep.items():
            self._cuts.setdefault(name, {})[dim] = kept
        self._folds: dict[str, Fold] = {fold.parameter: fold for fold in plan.folds}
        self._tables: dict[str, ExpertCut] = {name: cut for cut in plan.experts for name in cut.tables}

    def of(self, name: str, twins: tuple[str, ...], assembly: Assembly, dtype: torch.dtype, seen: Seen) -> torch.Tensor:
        """The part of a tensor that stays.

        ``seen`` is called with all of its values in order. ``twins``: further names of a tied tensor.
        """
        names = (name, *twins)
        cuts = next((self._cuts[n] for n in names if n in self._cuts), {})
        fold = next((self._folds[n] for n in names if n in self._folds), None)
        kept = _cut_stack(assembly, dtype, cuts, seen) if assembly.is_stack else _cut_whole(assembly, dtype, cuts, seen)
        if fold is not None:
            kept = fold.of(kept)
        if name in self._tables:
            kept = self._tables[name].renumbered(kept)
        return kept


def read_through(assembly: Assembly, dtype: torch.dtype, seen: Seen) -> None:
    """Show all values of a tensor in order, and keep none."""
    if assembly.is_stack:
        for part in range(assembly.shape[0]):
            seen(_part(assembly, dtype, part))
    else:
        seen(put_together(assembly, dtype))


def _cut_whole(assembly: Assembly, dtype: torch.dtype, cuts: Cuts, seen: Seen) -> torch.Tensor:
    values = put_together(assembly, dtype)
    seen(values)
    # One row of positions for each expert first: afterwards there may be fewer experts.
    for dim, kept in sorted(cuts.items(), key=lambda cut: -cut[1].ndim):
        values = slice_kept(values, dim, kept)
    return values.contiguous()


def _cut_stack(assembly: Assembly, dtype: torch.dtype, cuts: Cuts, seen: Seen) -> torch.Tensor:
    """Cut expert by expert, so that a stack is never in memory before it is cut."""
    count = assembly.shape[0]
    stay = {int(old): new for new, old in enumerate(cuts.get(0, np.arange(count)))}
    inner = {dim: kept for dim, kept in cuts.items() if dim}
    made: torch.Tensor | None = None
    for part in range(count):
        values = _part(assembly, dtype, part)
        seen(values)
        if part not in stay:
            continue
        for dim, kept in sorted(inner.items(), key=lambda cut: -cut[1].ndim):
            values = slice_kept(values, dim - 1, kept[part] if kept.ndim == 2 else kept)
        if made is None:
            made = torch.empty((len(stay), *values.shape), dtype=dtype)
        made[stay[part]] = values
    assert made is not None  # a plan keeps at least one expert
    return made


def _part(assembly: Assembly, dtype: torch.dtype, part: int) -> torch.Tensor:
    values = assembly.read(part).to(dtype)
    assembly.reader.note_read(assembly.nbytes // assembly.shape[0])
    return values

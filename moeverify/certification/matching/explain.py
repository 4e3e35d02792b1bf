"""Origin of values that are not the base's at the expected positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from moeverify.base.ranges import spans
from moeverify.certification.matching.keys import hash_rows, in_type, match

Maps = Mapping[int, np.ndarray | None]
# Factors are compared at least this closely; norms that took over a constant are rounded once.
_FACTOR_ERROR = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def difference(after: torch.Tensor, expected: torch.Tensor) -> tuple[float, float | None]:
    """The relative change, and the factor if one explains it: of the values, or of the values plus one."""
    new, old = after.double(), expected.double()
    scale = float(old.norm())
    change = float((new - old).norm()) / scale if scale else float("inf")
    error = _FACTOR_ERROR.get(after.dtype, 1e-2)
    for offset in (0.0, 1.0):
        a, b = new + offset, old + offset
        if (size := float((b * b).sum())) and np.isfinite(size):
            factor = float((a * b).sum()) / size
            if (
                abs(factor) > 0.01
                and abs(factor - 1) > 4 * error
                and float((a - factor * b).norm()) <= error * float(b.norm())
            ):
                return change, factor
    return change, None


class Moved(NamedTuple):
    """Other base positions where the values were found, in words.

    ``found``: the positions along ``dim``, if only one dimension moved.
    """

    words: str
    dim: int | None = None
    found: np.ndarray | None = None


def alternative(after: torch.Tensor, before: torch.Tensor, maps: Maps) -> Moved | None:
    """Other positions of the base at which the values lie; ``None`` if there are none."""
    if after.dim() == 2 and after.shape == before.T.shape:
        turned = {1 - dim: positions for dim, positions in maps.items()}
        if _taken_equal(after.T, before, {d: maps[d] for d in maps}) or _taken_equal(after, before.T, turned):
            return Moved("transposed: rows and columns are exchanged")
    for dim in range(after.dim()):
        others = {d: p for d, p in maps.items() if d != dim}
        source = before
        for other, positions in others.items():
            if positions is not None:
                source = source.index_select(other, torch.as_tensor(positions))
        wanted = _rows(after, dim)
        there = _rows(in_type(source, after.dtype), dim)
        if wanted.shape[1] < 2 and len(np.unique(hash_rows(there))) < len(there):
            continue
        found, _ = match(hash_rows(wanted), hash_rows(there))
        expected = maps.get(dim)
        expected = np.arange(after.shape[dim]) if expected is None else expected
        if (found >= 0).all() and (found != expected).any():
            return Moved(_words(dim, found, expected), dim, found)
    return None


def _words(dim: int, positions: np.ndarray, expected: np.ndarray) -> str:
    wrong = np.flatnonzero((positions != expected) & (positions >= 0))
    half, rest = divmod(len(positions), 2)
    if not rest and half > 1 and len(wrong) == len(positions):
        swapped = np.concatenate([expected[half:], expected[:half]])
        if np.array_equal(positions, swapped):
            return f"the two halves of dimension {dim} are exchanged, as gate and up would be"
    here = spans(wrong[:6].tolist()) + (", ..." if len(wrong) > 6 else "")
    theirs = ", ".join(map(str, positions[wrong[:6]].tolist()))
    rest_of_class = ", ".join(map(str, expected[wrong[:6]].tolist()))
    return f"positions {here} of dimension {dim} hold {theirs} of the base, their class holds {rest_of_class}"


def _rows(values: torch.Tensor, dim: int) -> torch.Tensor:
    moved = values.movedim(dim, 0)
    return moved.reshape(len(moved), -1)


def _taken_equal(after: torch.Tensor, before: torch.Tensor, maps: Maps) -> bool:
    for dim, positions in maps.items():
        if positions is None:
            continue
        if positions.max(initial=-1) >= before.shape[dim]:
            return False
        before = before.index_select(dim, torch.as_tensor(positions))
    return after.shape == before.shape and torch.equal(after, in_type(before, after.dtype))

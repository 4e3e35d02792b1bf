"""Maps from positions of one dimension to positions of another: one small class per relation.

Each has ``map(positions) -> (positions there, rows)``: ``rows[k]`` is the index into the given positions that
position ``k`` of the result comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Mapped = tuple[np.ndarray, np.ndarray]


class PositionMap(Protocol):
    """Map from positions of one dimension to those of a related one."""

    def map(self, positions: np.ndarray) -> Mapped:
        """Positions of the other dimension, and for each the row in ``positions`` that it came from."""


@dataclass(frozen=True)
class Identity:
    """Position ``i`` is position ``i``."""

    def map(self, positions: np.ndarray) -> Mapped:
        """The same positions."""
        return positions, np.arange(len(positions))


@dataclass(frozen=True)
class WholeToPart:
    """``part[i] == whole[start + step * i]``, read from the whole; ``size`` positions of the part."""

    start: int
    step: int
    size: int

    def map(self, positions: np.ndarray) -> Mapped:
        """Positions that lie in the part."""
        offset, rest = np.divmod(positions - self.start, self.step)
        rows = np.flatnonzero((rest == 0) & (offset >= 0) & (offset < self.size))
        return offset[rows], rows


@dataclass(frozen=True)
class PartToWhole:
    """``part[i] == whole[start + step * i]``, read from the part."""

    start: int
    step: int

    def map(self, positions: np.ndarray) -> Mapped:
        """Each position at its place in the whole."""
        return self.start + self.step * positions, np.arange(len(positions))


@dataclass(frozen=True)
class WholeToFactor:
    """A whole enumerates its factors in row-major order; read from the whole to one factor."""

    size: int
    inner: int

    def map(self, positions: np.ndarray) -> Mapped:
        """The factor's position of each; the same one for all that share it."""
        factor, rows = np.unique(positions // self.inner % self.size, return_index=True)
        return factor, rows


@dataclass(frozen=True)
class FactorToWhole:
    """A whole enumerates its factors in row-major order; read from one factor to the whole of ``total`` positions."""

    size: int
    inner: int
    total: int

    def map(self, positions: np.ndarray) -> Mapped:
        """Every position of the whole that belongs to one of the factor's."""
        outer = np.arange(0, self.total, self.size * self.inner)
        block = (outer[:, None] + np.arange(self.inner)[None, :]).ravel()
        there = positions[:, None] * self.inner + block[None, :]
        return there.ravel(), np.repeat(np.arange(len(positions)), len(block))

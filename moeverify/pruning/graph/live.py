"""Traced positions that are still there, and their present places, after parts of a model were cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.errors import UsageError

Place = tuple[str, int]


class LiveIndex:
    """Original and present positions of every parameter's and buffer's axis.

    ``sizes``: original sizes. Where each fused expert kept its own channels, those of the first expert stand for all,
    since their present numbers agree. ``version`` counts the cuts.
    """

    def __init__(self, sizes: Mapping[Place, int]) -> None:
        self._original: dict[Place, int] = dict(sizes)
        self._left: dict[Place, list[tuple[int, np.ndarray]]] = {}  # with the version from which on they are left
        self.version = 0

    def size(self, place: Place) -> int:
        """Present number of positions."""
        left = self._at(place)
        return self._original[place] if left is None else len(left)

    def _at(self, place: Place, version: int | None = None) -> np.ndarray | None:
        """Positions that were left in a version, now if none is given; ``None`` if that is everything."""
        cuts = self._left.get(place, ())
        return next((left for since, left in reversed(cuts) if version is None or since <= version), None)

    def original(self, place: Place, positions: np.ndarray, version: int | None = None) -> np.ndarray:
        """Original numbers of positions that are given in the present numbering, or in that of ``version``.

        Raises ``UsageError`` for one that does not exist.
        """
        left = self._at(place, version)
        size = self._original[place] if left is None else len(left)
        if len(positions) and (positions.min() < 0 or positions.max() >= size):
            wrong = next(p for p in positions.tolist() if not 0 <= p < size)
            raise UsageError(f"{place[0]} has positions 0 to {size - 1} along dimension {place[1]}, not {wrong}")
        return positions if left is None else left[positions]

    def present(self, place: Place, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Present places of original positions, and which of them (rows) are still there."""
        left = self._at(place)
        if left is None:
            return positions, np.arange(len(positions))
        places = np.searchsorted(left, positions)
        rows = np.flatnonzero((places < len(left)) & (left[np.minimum(places, len(left) - 1)] == positions))
        return places[rows], rows

    def cut(self, keep: Mapping[Place, np.ndarray]) -> None:
        """Note that only the present positions ``keep`` (``[kept]``, ascending) stay."""
        for place, kept in keep.items():
            if place not in self._original:
                continue
            left = self._at(place)
            self._left.setdefault(place, []).append((self.version + 1, kept if left is None else left[kept]))
        self.version += 1


def renumber(classes: Iterable[PruningClass], live: LiveIndex) -> tuple[PruningClass, ...]:
    """Classes after parts were cut: removed units left out, positions in the present numbering."""
    if not live.version:
        return tuple(classes)
    result = []
    for pruning_class in classes:
        members: list[Member] = []
        left = np.arange(pruning_class.coupling.size)
        for member in pruning_class.coupling.members:
            _, rows = live.present((member.parameter, member.dim), member.positions[:, 0])
            left = np.intersect1d(left, rows)
        for member in pruning_class.coupling.members:
            positions = member.positions[left]
            present, _ = live.present((member.parameter, member.dim), positions.ravel())
            members.append(replace(member, positions=present.reshape(positions.shape)))
        if len(left):
            result.append(replace(pruning_class, coupling=CouplingClass(tuple(members))))
    return tuple(result)

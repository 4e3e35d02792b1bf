"""Which of the positions that were traced are still there, and at which place, after parts of a model were cut."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moeverify.errors import UsageError

Place = tuple[str, int]


class LiveIndex:
    """Original and present positions of every parameter's and buffer's axis.

    ``sizes`` are the original ones. Where each expert of a common parameter kept channels of its own, the first
    expert's stand for all: their present numbers agree.
    """

    def __init__(self, sizes: Mapping[Place, int]) -> None:
        self._original: dict[Place, int] = dict(sizes)
        self._left: dict[Place, np.ndarray] = {}
        self.version = 0

    def size(self, place: Place) -> int:
        """Positions there are now."""
        left = self._left.get(place)
        return self._original[place] if left is None else len(left)

    def original(self, place: Place, positions: np.ndarray) -> np.ndarray:
        """Present positions as they were numbered when the model was traced.

        Raises ``UsageError`` for one that does not exist.
        """
        size = self.size(place)
        if len(positions) and (positions.min() < 0 or positions.max() >= size):
            wrong = next(p for p in positions.tolist() if not 0 <= p < size)
            raise UsageError(f"{place[0]} has positions 0 to {size - 1} along dimension {place[1]}, not {wrong}")
        left = self._left.get(place)
        return positions if left is None else left[positions]

    def present(self, place: Place, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where original positions are now, and which of them (rows) are still there."""
        left = self._left.get(place)
        if left is None:
            return positions, np.arange(len(positions))
        found = np.searchsorted(left, positions)
        rows = np.flatnonzero((found < len(left)) & (left[np.minimum(found, len(left) - 1)] == positions))
        return found[rows], rows

    def cut(self, keep: Mapping[Place, np.ndarray]) -> None:
        """Note that only the present positions ``keep`` (``[kept]``, ascending) stay."""
        for place, kept in keep.items():
            if place not in self._original:
                continue
            left = self._left.get(place)
            self._left[place] = kept if left is None else left[kept]
        self.version += 1

"""Dependencies that a user or a test adds to the traced ones, in Torch-Pruning's own form.

They live where Torch-Pruning keeps them, in ``node.dependencies``, and are read from there. A ``Dependency`` that
another tool appended is followed as well as one from ``graph.inject``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from torch_pruning import _helpers
from torch_pruning.dependency import Dependency

from moeverify.pruning.graph.position_maps import Mapped

INJECTED = "an injected dependency"


@dataclass(frozen=True, eq=False)
class DependencyMap:
    """The index mapping of a Torch-Pruning ``Dependency``; positions outside ``[0, size)`` are dropped."""

    dependency: Dependency
    size: int

    def map(self, positions: np.ndarray) -> Mapped:
        """Positions of the target, and the row each came from."""
        indices = [_helpers._HybridIndex(idx=p, root_idx=row) for row, p in enumerate(positions.tolist())]
        for mapping in self.dependency.index_mapping:
            if mapping is not None:
                indices = mapping(indices)
        pairs = [(i.idx, i.root_idx or 0) for i in indices if 0 <= i.idx < self.size]
        there, rows = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(there, dtype=np.int64), np.array(rows, dtype=np.int64)


def index_mapping(function: Callable[[int], int | Iterable[int] | None]) -> Callable[[list], list]:
    """A function of one position as a Torch-Pruning index mapping; it may give one position, several or ``None``."""

    def apply(indices: list) -> list:
        result = []
        for index in indices:
            targets = function(index.idx)
            for target in (targets,) if isinstance(targets, int) else (targets or ()):
                result.append(_helpers._HybridIndex(idx=int(target), root_idx=index.root_idx))
        return result

    return apply

"""Positions of a parameter that no operation reads, where others of the same dimension are sliced off.

Example: ``x + self.positions[:, :length]``. Rows behind the length of the example serve longer inputs, so the trace
does not show that they can go.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from moeverify.coupling.solving.regions import Region, Solution

UNREAD = "no operation on the example inputs reads these positions, others are sliced off; longer inputs may use them"


def without_unread(
    solution: Solution, region: Region, tables: Collection[int]
) -> tuple[Solution, list[tuple[int, np.ndarray]]]:
    """The solution without classes that nothing reads, and these: number of the root in the region, positions.

    ``tables`` are roots that slices are taken of, and that belong to one parameter or to several of one shape.
    """
    classes, unread = [], []
    for occupied in solution.classes:
        places = dict(occupied)
        alone = next(iter(places)) if len(places) == 1 else -1
        if alone in tables and _nothing_reads(alone, places[alone], region):
            unread.append((alone, places[alone].ravel()))
        else:
            classes.append(occupied)
    return Solution(tuple(classes), solution.frozen), unread


def _nothing_reads(root: int, positions: np.ndarray, region: Region) -> bool:
    """Whether no slice of a root holds any of ``positions``, and nothing else divides it."""
    if any(part == root for part, *_ in region.links):
        return False
    taken = [(start, step, count) for k, start, step, count in region.seeds if k == root]
    taken += [(start, step, inner * count) for _, whole, start, step, inner, count in region.links if whole == root]
    read = {place for start, step, count in taken for place in range(start, start + step * count, step)}
    return read.isdisjoint(positions.ravel().tolist())

"""Torch-Pruning groups made from a walk: items its importances and pruners read, and a ``prune`` that keeps ties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch_pruning import _helpers
from torch_pruning.dependency import Group

if TYPE_CHECKING:
    from moeverify.pruning.graph import MoEDependencyGraph

Place = tuple[str, int]


class Item(_helpers.GroupItem):
    """A ``(dep, idxs)`` pair that also knows which ``places`` (parameter or buffer, axis) it cuts.

    ``root_idxs[k]`` is the position of the root that ``idxs[k]`` goes with. For the inputs of a grouped convolution,
    whose weight holds them once for all groups, ``span`` is the number of inputs of one group; else 0.
    """

    places: tuple[Place, ...]
    root_idxs: list[int]
    span: int

    def __new__(cls, dep: Any, idxs: list[int], root_idxs: list[int], places: Sequence[Place], span: int = 0) -> Item:
        item = super().__new__(cls, dep, idxs)
        item.root_idxs = root_idxs
        item.places = tuple(places)
        item.span = span
        return item


class PruningGroup(Group):
    """A ``tp.dependency.Group`` of an ``MoEDependencyGraph``.

    ``expansions`` tells how many steps found it. ``rest`` are buffers that no layer of Torch-Pruning's covers, with
    the positions that go. An item may be replaced before ``prune``, as Torch-Pruning's own pruners do.
    """

    _DG: MoEDependencyGraph
    _group: list[Any]

    def __init__(self, graph: MoEDependencyGraph) -> None:
        super().__init__()
        self._DG = graph
        self.expansions = 0
        self.rest: dict[Place, np.ndarray] = {}
        self._cuts: list[Item] = []

    def add(self, item: Item) -> None:
        """Append an item."""
        self._group.append(item)
        self._cuts.append(item)

    def removed(self) -> dict[Place, np.ndarray]:
        """Positions that go, for each parameter and buffer as it is now."""
        gone: dict[Place, list[np.ndarray]] = {}
        for (_, idxs), item in zip(self._group, self._cuts, strict=True):
            positions = np.asarray(idxs, dtype=np.int64)
            for place in item.places:
                gone.setdefault(place, []).append(positions % item.span if item.span else positions)
        for place, positions in self.rest.items():
            gone.setdefault(place, []).append(positions)
        return {place: np.unique(np.concatenate(parts)) for place, parts in gone.items()}

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Cut everything in the group, or what goes with the root's ``idxs``; the history remembers it.

        Raises ``PruningRefused`` before anything is changed if the model no longer fits the graph.
        """
        group = self
        root = self._group[0].dep
        if idxs is not None:
            group = self._DG.get_pruning_group(root.target.module, root.handler, idxs)
        indices = list(group[0].idxs)
        self._DG.cut(group.removed())
        if record_history:
            self._DG.remember(*self._DG.nodes.entry(root.target, root.handler), indices)


def repeated(positions: np.ndarray, roots: np.ndarray, repeats: int, span: int) -> tuple[list[int], list[int]]:
    """Positions of one channel group of a grouped convolution, in all of its groups."""
    offsets = np.arange(repeats)[:, None] * span
    return (positions[None, :] + offsets).ravel().tolist(), np.tile(roots, repeats).tolist()

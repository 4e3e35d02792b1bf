"""Torch-Pruning groups made from a walk: items its importances and pruners read, and a ``prune`` that keeps ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch_pruning import _helpers
from torch_pruning.dependency import DependencyGraph, Group

from moeverify.pruning.graph.live import Place
from moeverify.pruning.graph.traced import TracedModel


class Item(_helpers.GroupItem):
    """A ``(dep, idxs)`` pair with the ``places`` (parameter or buffer, axis) that it cuts.

    ``root_idxs[k]`` is the position of the root that ``idxs[k]`` goes with. ``span`` is the number of inputs of one
    group of a grouped convolution, whose weight holds them once for all groups; else 0.
    """

    places: tuple[Place, ...]
    root_idxs: list[int]
    span: int

    def __new__(cls, dep: Any, idxs: list[int], root_idxs: list[int], places: Sequence[Place], span: int = 0) -> Item:
        """Make the pair, and set its further attributes."""
        item = super().__new__(cls, dep, idxs)
        item.root_idxs = root_idxs
        item.places = tuple(places)
        item.span = span
        return item


class PruningGroup(Group):
    """A ``tp.dependency.Group`` of an ``MoEDependencyGraph``.

    ``expansions``: number of steps that found it. ``rest`` are buffers that no layer of Torch-Pruning's covers, with
    the positions that go. Items may be replaced, added or taken out before ``prune``, as Torch-Pruning's own pruners
    do. Positions are numbered as they were when the group was made, also if others were pruned since. ``on_pruned`` is
    called with the group after it was pruned.
    """

    _DG: DependencyGraph
    _group: list[Any]

    def __init__(self, traced: TracedModel, graph: DependencyGraph) -> None:
        super().__init__()
        self._DG = graph  # where Torch-Pruning's own code looks for it
        self._traced = traced
        self.expansions = 0
        self.rest: dict[Place, np.ndarray] = {}
        self.on_pruned: Callable[[PruningGroup], None] | None = None
        self._items: dict[int, Item] = {}  # by the identity of the dependency, which a replaced item keeps
        self._version = traced.live.version

    def add(self, item: Item) -> None:
        """Append an item."""
        self._group.append(item)
        self._items[id(item.dep)] = item

    def add_dep(self, dep: Any, idxs: Sequence[int]) -> None:
        """Append a dependency, with the positions that it cuts at its target."""
        self.add(self._item(dep, idxs))

    def _item(self, dep: Any, idxs: Sequence[int]) -> Item:
        """The item of a dependency; one that was put in from outside is looked up in the graph."""
        if id(dep) in self._items:
            return self._items[id(dep)]
        end = self._traced.nodes.end_of_node(dep.target, dep.handler)
        return Item(dep, list(idxs), list(idxs), self._traced.nodes.places(end), end.span)

    def removed(self) -> dict[Place, np.ndarray]:
        """Positions that the group removes, by parameter and buffer, in the model's present numbering."""
        gone: dict[Place, list[np.ndarray]] = {}
        for dep, idxs in self._group:
            item = self._item(dep, idxs)
            positions = np.asarray(idxs, dtype=np.int64)
            for place in item.places:
                gone.setdefault(place, []).append(positions % item.span if item.span else positions)
        for place, positions in self.rest.items():
            gone.setdefault(place, []).append(positions)
        return {place: self._now(place, np.unique(np.concatenate(parts))) for place, parts in gone.items()}

    def _now(self, place: Place, positions: np.ndarray) -> np.ndarray:
        """Map positions from the time the group was built to the present model; removed ones are left out."""
        live = self._traced.live
        if live.version == self._version:
            return positions
        return live.present(place, live.original(place, positions, self._version))[0]

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Cut everything in the group, or what goes with the root's ``idxs``; the history remembers it.

        Raises ``PruningRefused`` before anything is changed if the model no longer fits the graph.
        """
        group: PruningGroup = self
        root = self._group[0].dep
        if idxs is not None:
            group = self._DG.get_pruning_group(root.target.module, root.handler, idxs)
        indices = group._root_indices()
        if indices:
            self._traced.cut(group.removed())
        if indices and record_history:
            self._traced.remember(*self._traced.nodes.entry(root.target, root.handler), indices)
        if self.on_pruned is not None:
            self.on_pruned(self)

    def _root_indices(self) -> list[int]:
        """Positions of the root that the group removes, in the model's present numbering."""
        dep, idxs = self._group[0]
        end = self._traced.nodes.end_of_node(dep.target, dep.handler)
        if end.span:
            return list(idxs)
        return self._now(end.place, np.asarray(idxs, dtype=np.int64)).tolist()


def repeated(positions: np.ndarray, roots: np.ndarray, repeats: int, span: int) -> tuple[list[int], list[int]]:
    """Positions of one channel group of a grouped convolution, repeated for all of its groups; with the root position
    of each.
    """
    offsets = np.arange(repeats)[:, None] * span
    return (positions[None, :] + offsets).ravel().tolist(), np.tile(roots, repeats).tolist()

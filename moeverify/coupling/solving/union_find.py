"""Dimensions that are one, merged pair by pair (disjoint sets with path halving)."""

from __future__ import annotations

from moeverify.coupling.relations import Relations


class UnionFind:
    """``find`` gives the representative of all dimensions that ``union`` merged with one."""

    def __init__(self, relations: Relations) -> None:
        self._parent = list(range(len(relations.sizes)))
        for a, b, _ in relations.equals:
            self.union(a, b)

    def find(self, item: int) -> int:
        """The representative of ``item``."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def union(self, first: int, second: int) -> None:
        """Merge two; the second's representative becomes that of both."""
        self._parent[self.find(first)] = self.find(second)

    def add(self) -> None:
        """Add one more dimension, merged with no other."""
        self._parent.append(len(self._parent))

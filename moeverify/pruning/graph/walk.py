"""A pruning group grows step by step over the dependency graph between dimensions.

The graph's nodes are dimensions of traced tensors, its edges the relations that operations state between them. From
a root's positions the walk enters node after node, depth first and without recursion. Four guards keep it right;
each can be left out, which is how tests show what it is for:

* ``onpath``: nodes of the present path are known, so a path that closes is recognised, reported and left;
* ``visited``: positions that a node has seen are not carried into it again;
* ``boundary``: a step from one routed expert into another is not taken;
* ``transparent``: dimensions that an operation leaves as they are, position by position, are one node.

``max_expansions`` bounds the steps whatever the guards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from moeverify.coupling.relations import Freeze
from moeverify.coupling.solving.links import Links
from moeverify.pruning.graph.position_maps import (
    FactorToWhole,
    Identity,
    PartToWhole,
    PositionMap,
    WholeToFactor,
    WholeToPart,
)

GUARDS = frozenset({"onpath", "visited", "boundary", "transparent"})
MAX_EXPANSIONS = 200_000


@dataclass(frozen=True, eq=False)
class Edge:
    """A relation read from one node to another. Both directions of a relation share its ``number``."""

    target: int
    positions: PositionMap
    operation: str
    number: int
    injected: bool = False


@dataclass(frozen=True, eq=False)
class DimensionGraph:
    """Nodes, edges, and where parameters lie.

    ``node_of[dim]``: node of a traced dimension. ``sizes``: positions of each node. ``places[node]``: the ``(parameter,
    axis)`` pairs that are this dimension. ``frozen[node]``: why it cannot be pruned.
    """

    node_of: Callable[[int], int]
    sizes: Callable[[int], int]
    edges: Mapping[int, tuple[Edge, ...]]
    places: Mapping[int, tuple[tuple[str, int], ...]]
    frozen: Callable[[int], Freeze | None]


def dimension_graph(
    links: Links, tensors: Mapping[str, tuple[int, ...]], *, merge_transparent: bool = True
) -> DimensionGraph:
    """The graph of a trace. With ``merge_transparent`` equal dimensions are one node, else each is its own."""
    relations, root = links.relations, links.root

    def own(dim: int) -> int:
        return root[dim] if merge_transparent else dim

    edges: dict[int, list[Edge]] = {}
    count = 0

    def relate(a: int, there: PositionMap, b: int, back: PositionMap, operation: int) -> None:
        nonlocal count
        name = str(relations.operations[operation]) if operation >= 0 else "(model)"
        edges.setdefault(a, []).append(Edge(b, there, name, count))
        edges.setdefault(b, []).append(Edge(a, back, name, count))
        count += 1

    same = Identity()
    if not merge_transparent:
        for a, b, operation in relations.equals:
            relate(a, same, b, same, operation)
        for dim, representative in enumerate(root):
            if dim != representative:  # also those equal because the same dimension was split alike
                relate(dim, same, representative, same, -1)
    for segment in relations.segments:
        whole_to_part = WholeToPart(segment.start, segment.step, relations.sizes[segment.part])
        part_to_whole = PartToWhole(segment.start, segment.step)
        relate(own(segment.whole), whole_to_part, own(segment.part), part_to_whole, segment.operation)
    for number, (factor, size, inner) in links.chosen.items():
        product = relations.products[number]
        total = relations.sizes[product.whole]
        relate(
            own(product.whole),
            WholeToFactor(size, inner),
            own(factor),
            FactorToWhole(size, inner, total),
            product.operation,
        )
    places: dict[int, list[tuple[str, int]]] = {}
    for name, dims in tensors.items():
        for axis, dim in enumerate(dims):
            if relations.sizes[dim] > 1:
                places.setdefault(own(dim), []).append((name, axis))
    return DimensionGraph(
        node_of=own,
        sizes=lambda node: relations.sizes[node],
        edges={node: tuple(items) for node, items in edges.items()},
        places={node: tuple(items) for node, items in places.items()},
        frozen=lambda node: links.frozen.get(root[node]),
    )


@dataclass(frozen=True)
class Crossing:
    """A dependency from one routed expert into another, and the operation (or injection) that states it."""

    source: str
    target: str
    operation: str
    injected: bool

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} by {self.operation}"


@dataclass(eq=False)
class Expansion:
    """Result of a walk.

    ``roots[node]`` holds, for each position of a reached node, the root position that reached it, or -1. Nodes come in
    the order they were entered. ``expansions`` counts the steps; ``cycles`` the paths that closed, ``last_cycle`` the
    last of them as readable steps. ``crossings`` are the steps that the expert boundary stopped.
    """

    roots: dict[int, np.ndarray] = field(default_factory=dict)
    expansions: int = 0
    overflowed: bool = False
    cycles: int = 0
    last_cycle: tuple[str, ...] = ()
    crossings: list[Crossing] = field(default_factory=list)

    def positions(self, node: int) -> np.ndarray:
        """The positions of a node that were reached, ascending."""
        return np.flatnonzero(self.roots[node] >= 0)


@dataclass(eq=False)
class _Frame:
    """One node on the present path, with the positions carried into it and the edges left to follow."""

    node: int
    positions: np.ndarray
    roots: np.ndarray
    edges: Iterator[Edge]
    via: Edge | None
    expert: str | None
    carried: set[int] = field(default_factory=set)


class Walk:
    """Expands groups over a graph.

    ``owner(node)`` names the routed experts that a node's parameters lie in: empty outside, several for a dimension
    that only experts share. ``injected(node)`` gives the edges that were added. ``describe(node)`` names it.
    """

    def __init__(
        self,
        graph: DimensionGraph,
        *,
        owner: Callable[[int], tuple[str, ...]] = lambda node: (),
        injected: Callable[[int], Iterable[Edge]] = lambda node: (),
        describe: Callable[[int], str] = str,
        max_expansions: int = MAX_EXPANSIONS,
        guards: Iterable[str] = GUARDS,
    ) -> None:
        self.graph = graph
        self.owner = owner
        self.injected = injected
        self.describe = describe
        self.max_expansions = max_expansions
        self.guards = frozenset(guards)

    def expand(self, start: int, positions: np.ndarray, roots: np.ndarray | None = None) -> Expansion:
        """All positions that are removed together with ``positions`` of the node ``start``. ``roots`` are their root
        positions; by default the positions themselves.
        """
        expansion = Expansion()
        experts = self.owner(start)
        if len(experts) > 1:
            self._shared_dimension(expansion, start, experts)
        roots = positions if roots is None else roots
        first = self._enter(expansion, start, positions, roots, None, experts[0] if experts else None)
        path = [first] if first is not None else []
        onpath: dict[int, list[_Frame]] = {start: list(path)}
        while path:
            frame = path[-1]
            edge = next(frame.edges, None)
            if edge is None:  # left
                path.pop()
                onpath[frame.node].pop()
                continue
            back = frame.via is not None and edge.number == frame.via.number and edge is not frame.via
            if back and not isinstance(edge.positions, FactorToWhole):
                continue  # the relation that led here, read backwards, says nothing new
            target, rows = edge.positions.map(frame.positions)
            if not len(target):
                continue
            allowed, expert = self._cross(expansion, frame, edge)
            if not allowed:
                continue
            open_frames = onpath.setdefault(edge.target, []) if "onpath" in self.guards else []
            if open_frames and not back:
                expansion.cycles += 1
                expansion.last_cycle = self._path(path, edge)
            target, rows = self._unvisited(expansion, open_frames, edge.target, target, rows)
            if not len(target):
                continue
            entered = self._enter(expansion, edge.target, target, frame.roots[rows], edge, expert)
            if entered is None:
                return expansion
            path.append(entered)
            onpath.setdefault(edge.target, []).append(entered)
        return expansion

    def _enter(
        self,
        expansion: Expansion,
        node: int,
        positions: np.ndarray,
        roots: np.ndarray,
        via: Edge | None,
        expert: str | None,
    ) -> _Frame | None:
        """Count a step and open a frame; ``None`` past the bound."""
        expansion.expansions += 1
        if expansion.expansions > self.max_expansions:
            expansion.overflowed = True
            return None
        seen = expansion.roots.get(node)
        if seen is None:
            seen = expansion.roots[node] = np.full(self.graph.sizes(node), -1, dtype=np.int64)
        new = seen[positions] < 0
        seen[positions[new]] = roots[new]
        edges = (*self.graph.edges.get(node, ()), *self.injected(node))
        carried = set() if "visited" in self.guards else set(positions.tolist())
        return _Frame(node, positions, roots, iter(edges), via, expert, carried)

    def _unvisited(
        self, expansion: Expansion, open_frames: list[_Frame], node: int, positions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a node that the walk has not visited, and the rows of the open frame that they come from.

        Where two rows lead to one position, the first is kept.
        """
        if "visited" in self.guards:
            seen = expansion.roots.get(node)
            if seen is not None:
                new = seen[positions] < 0
                positions, rows = positions[new], rows[new]
        elif open_frames:
            carried = set().union(*(frame.carried for frame in open_frames))
            new = np.array([p not in carried for p in positions.tolist()], dtype=bool)
            positions, rows = positions[new], rows[new]
        if len(positions) > 1:  # two root positions may meet in one: the first keeps it
            positions, first = np.unique(positions, return_index=True)
            rows = rows[first]
        return positions, rows

    def _cross(self, expansion: Expansion, frame: _Frame, edge: Edge) -> tuple[bool, str | None]:
        """Whether the expert boundary allows a step; also the routed expert that the walk is in afterwards."""
        experts = self.owner(edge.target)
        if len(experts) > 1:
            self._shared_dimension(expansion, edge.target, experts)
        if not experts:
            # Activations carry the expert on; a parameter outside (router, shared expert, norm) ends it.
            return True, None if self.graph.places.get(edge.target) else frame.expert
        if frame.expert is not None and frame.expert not in experts and "boundary" in self.guards:
            crossing = Crossing(frame.expert, experts[0], edge.operation, edge.injected)
            if crossing not in expansion.crossings:
                expansion.crossings.append(crossing)
            return False, None
        return True, experts[0]

    def _shared_dimension(self, expansion: Expansion, node: int, experts: tuple[str, ...]) -> None:
        if "boundary" in self.guards:
            crossing = Crossing(experts[0], experts[1], f"one dimension: {self.describe(node)}", False)
            if crossing not in expansion.crossings:
                expansion.crossings.append(crossing)

    def _path(self, path: list[_Frame], edge: Edge) -> tuple[str, ...]:
        """The closed part of the present path, as readable steps."""
        start = max(number for number, frame in enumerate(path) if frame.node == edge.target)
        steps = [self.describe(path[start].node)]
        for frame in path[start + 1 :]:
            steps.append(f"{self.describe(frame.node)} ({frame.via.operation if frame.via else 'root'})")
        steps.append(f"{self.describe(edge.target)} ({edge.operation})")
        return tuple(steps)

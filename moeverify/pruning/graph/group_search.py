"""Build a Torch-Pruning group from a walk over the dependency graph, or give the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch_pruning.dependency import Dependency, DependencyGraph

from moeverify.coupling.relations import Freeze
from moeverify.coupling.solving.links import link
from moeverify.errors import BoundaryRefused, PruningRefused
from moeverify.pruning.graph.account import Account
from moeverify.pruning.graph.groups import Item, PruningGroup, repeated
from moeverify.pruning.graph.injection import INJECTED, DependencyMap
from moeverify.pruning.graph.live import Place
from moeverify.pruning.graph.nodes import End
from moeverify.pruning.graph.traced import TracedModel
from moeverify.pruning.graph.walk import DimensionGraph, Edge, Expansion, Walk, dimension_graph

# What freezes the model's interface; an explicit request may cut it all the same.
INTERFACE = ("dimension of the model's input", "dimension of the model's output")


@dataclass(frozen=True, eq=False)
class _Added:
    """An injected dependency on the dimension graph."""

    dependency: Dependency
    source: Place
    target: Place


class GroupSearch:
    """Builds the pruning groups of a traced model, for the Torch-Pruning graph ``graph``."""

    def __init__(self, traced: TracedModel, graph: DependencyGraph, account: Account, guards: frozenset[str]) -> None:
        self._traced, self._graph = traced, graph
        self._account, self._guards = account, guards
        self._trace = traced.couplings.trace
        self._added: tuple[int, list[_Added]] = (0, [])
        self._owners: dict[int, tuple[str, ...]] = {}

    def _dims(self, place: Place) -> int:
        return self._trace.tensors[place[0]][place[1]]

    @cached_property
    def _strict(self) -> DimensionGraph:
        merge = "transparent" in self._guards
        return dimension_graph(self._traced.couplings.links, self._trace.tensors, merge_transparent=merge)

    @cached_property
    def _open(self) -> DimensionGraph:
        """The dimension graph in which inputs and outputs of the model are not frozen."""
        relations = self._trace.relations
        freezes = [freeze for freeze in relations.freezes if freeze.reason not in INTERFACE]
        lifted = replace(self._trace, relations=replace(relations, freezes=freezes))
        return dimension_graph(link(lifted), lifted.tensors, merge_transparent="transparent" in self._guards)

    def added(self) -> list[_Added]:
        """Dependencies that the user injected, each with the axes it connects."""
        count = self._traced.nodes.changes
        if self._added[0] != count:
            dependencies = []
            for dependency in self._traced.nodes.injected():
                source = self._traced.nodes.end_of_node(dependency.source, dependency.trigger)
                target = self._traced.nodes.end_of_node(dependency.target, dependency.handler)
                dependencies.append(_Added(dependency, source.place, target.place))
            self._added = (count, dependencies)
        return self._added[1]

    def injected_pairs(self) -> list[tuple[int, np.ndarray, int, np.ndarray]]:
        """Injected dependencies as pairs of positions ``(dim, positions, dim, positions)``, for the solver.

        Exception: those that the expert boundary blocks.
        """
        pairs = []
        for added in self.added():
            first, second = self._dims(added.source), self._dims(added.target)
            size = self._trace.relations.sizes
            owners = (
                self._owner(self._strict, self._strict.node_of(first)),
                self._owner(self._strict, self._strict.node_of(second)),
            )
            if all(owners) and set(owners[0]).isdisjoint(owners[1]) and "boundary" in self._guards:
                continue
            there, rows = DependencyMap(added.dependency, size[second]).map(np.arange(size[first]))
            pairs.append((first, rows, second, there))
        return pairs

    def inverse(self, mapping: Callable[[int], int | Iterable[int] | None], source: Place) -> Callable:
        """Inverse of an index mapping, by evaluating it at all positions of ``source``."""
        back: dict[int, list[int]] = {}
        for position in range(self._trace.relations.sizes[self._dims(source)]):
            targets = mapping(position)
            for target in (targets,) if isinstance(targets, int) else (targets or ()):
                back.setdefault(target, []).append(position)
        return lambda position: back.get(position)

    def _owner(self, graph: DimensionGraph, node: int) -> tuple[str, ...]:
        """Routed experts that a dimension's parameters lie in; empty if one of them lies outside."""
        key = node
        if key not in self._owners:
            boundaries = {self._traced.roles.boundary(name) for name, _ in graph.places.get(node, ())}
            self._owners[key] = () if None in boundaries else tuple(sorted(b for b in boundaries if b))
        return self._owners[key]

    def _describe(self, graph: DimensionGraph, node: int) -> str:
        places = graph.places.get(node)
        return f"{places[0][0]} dim {places[0][1]}" if places else f"an activation of {graph.sizes(node)} positions"

    def walk(self, graph: DimensionGraph) -> Walk:
        """A walk over ``graph`` with the injected dependencies and the expert boundary."""
        extra: dict[int, list[Edge]] = {}
        for number, added in enumerate(self.added()):
            source, target = graph.node_of(self._dims(added.source)), graph.node_of(self._dims(added.target))
            mapping = DependencyMap(added.dependency, graph.sizes(target))
            extra.setdefault(source, []).append(Edge(target, mapping, INJECTED, -1 - number, injected=True))
        return Walk(
            graph,
            owner=lambda node: self._owner(graph, node),
            injected=lambda node: extra.get(node, ()),
            describe=lambda node: self._describe(graph, node),
            max_expansions=self._account.max_expansions,
            guards=self._guards,
        )

    def group(
        self, end: End, positions: np.ndarray, roots: np.ndarray, *, interface: bool = False, units: bool = False
    ) -> PruningGroup:
        """The group of original ``positions`` at a root.

        ``roots`` number them for ``root_idxs``: unit numbers with ``units``, else the positions themselves.
        ``interface`` allows the model's own inputs and outputs. Raises as ``expand``.
        """
        graph, expansion = self.expand(end, positions, roots, interface=interface)
        return self._assemble(graph, end, expansion, positions, units)

    def expand(
        self, end: End, positions: np.ndarray, roots: np.ndarray, *, interface: bool = False
    ) -> tuple[DimensionGraph, Expansion]:
        """What the group of ``positions`` reaches, and on which graph.

        Raises ``PruningRefused`` for frozen positions and an expansion that overflows, ``BoundaryRefused`` for one that
        takes another routed expert along.
        """
        graph = self._strict
        expansion = self._expand(graph, end, positions, roots)
        frozen = self._frozen(graph, expansion)
        if frozen is not None and interface:
            lifted = self._expand(self._open, end, positions, roots)
            if self._frozen(self._open, lifted) is None:
                graph, expansion, frozen = self._open, lifted, None
        self._account.add(expansion)
        if expansion.overflowed:
            raise PruningRefused(
                f"the group of {end.place[0]} needs more than max_expansions={self._account.max_expansions} steps; "
                "raise it"
            )
        traced = [crossing for crossing in expansion.crossings if not crossing.injected]
        if traced:
            raise BoundaryRefused(f"pruning {end.place[0]} would take another routed expert along ({traced[0]})")
        if frozen is not None:
            operations = self._trace.relations.operations
            where = f" by {operations[frozen.operation]}" if frozen.operation >= 0 else ""
            raise PruningRefused(
                f"dimension {end.place[1]} of {end.place[0]} is frozen: {frozen.reason}{where}; "
                "`moeverify inspect` shows all that is"
            )
        return graph, expansion

    def _expand(self, graph: DimensionGraph, end: End, positions: np.ndarray, roots: np.ndarray) -> Expansion:
        return self.walk(graph).expand(graph.node_of(self._dims(end.place)), positions, roots)

    def _frozen(self, graph: DimensionGraph, expansion: Expansion) -> Freeze | None:
        return next((f for node in expansion.roots if (f := graph.frozen(node)) is not None), None)

    def _assemble(
        self, graph: DimensionGraph, end: End, expansion: Expansion, positions: np.ndarray, units: bool
    ) -> PruningGroup:
        live, nodes = self._traced.live, self._traced.nodes
        group = PruningGroup(self._traced, self._graph)
        group.expansions = expansion.expansions
        items: dict[tuple, tuple[End, np.ndarray, np.ndarray, list[Place]]] = {}
        # The root comes first, with the positions that were asked for in their order.
        start = graph.node_of(self._dims(end.place))
        others = np.setdiff1d(expansion.positions(start), positions)
        asked, _ = live.present(end.place, np.concatenate([positions, others]))
        labels = expansion.roots[start][np.concatenate([positions, others])]
        items[end.key] = (end, asked, labels, [])
        for node in expansion.roots:
            reached = expansion.positions(node)
            for place in graph.places.get(node, ()):
                present, rows = live.present(place, reached)
                if not len(present):
                    continue
                if nodes.is_loose_buffer(place[0]):
                    group.rest[place] = present
                    continue
                here = nodes.end_of_place(place)
                entry = items.setdefault(here.key, (here, present, expansion.roots[node][reached[rows]], []))
                entry[3].append(place)
                for alias in nodes.aliases(place):
                    items.setdefault(alias.key, (alias, present, expansion.roots[node][reached[rows]], []))
        for here, present, labels, places in items.values():
            if not units:
                labels, _ = live.present(end.place, labels)
            idxs, root_idxs = present.tolist(), labels.tolist()
            if here.span:
                idxs, root_idxs = repeated(present, labels, here.repeats, here.span)
            dependency = Dependency(end.function, here.function, end.node, here.node)
            group.add(Item(dependency, idxs, root_idxs, places, here.span))
        return group

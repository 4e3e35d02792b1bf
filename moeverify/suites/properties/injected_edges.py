"""``injected-edges``"""

from __future__ import annotations

import contextlib
import warnings

from moeverify.errors import PruningRefused
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.walk import GUARDS
from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.termination import STEPS_PER_OPERATION
from moeverify.suites.properties.trial import NotApplicable, Trial, require
from synthetic_models.edges import KINDS, Edge, edge_cycle

NAIVE_BOUND = 500


@prop("injected-edges", own=True)
def injected_edges(trial: Trial) -> None:
    """Cycles put into the graph's edges are recognised and left in a number of steps that grows at most linearly. They
    are never followed into another expert. Without the guards they overflow a bound.

    The kind and the strength follow from the spec's seed.
    """
    kind, strength = KINDS[trial.spec.seed % len(KINDS)], 1 + trial.spec.seed // len(KINDS) % 4
    edges = edge_cycle(trial.spec, trial.truth, kind, strength)
    if not edges:
        raise NotApplicable("the spec has no two experts to join")
    graph = _expanded(trial, edges, GUARDS)
    operations = len(graph.couplings.trace.relations.operations)
    positions = sum(graph.live.size(edge.source) for edge in edges)
    require(not graph.overflowed, f"the expansion overflowed after {graph.expansions:,} steps")
    allowed = STEPS_PER_OPERATION * (operations + positions)
    require(graph.expansions <= allowed, f"{graph.expansions:,} steps for {operations:,} operations")
    if kind == "across_experts":
        require(any(c.injected for c in graph.crossings), "a step into another expert was not stopped")
        return
    require(graph.cycles and graph.last_cycle, f"the injected {kind} was not recognised")
    naive = _expanded(trial, edges, GUARDS - {"onpath", "visited"}, NAIVE_BOUND)
    require(naive.overflowed, f"without guards the {kind} ended after {naive.expansions} steps: it is no cycle")


def _expanded(trial: Trial, edges: list[Edge], guards: frozenset[str], bound: int = 200_000) -> MoEDependencyGraph:
    """A graph with the edges, after the group of the first edge's source was built (or refused)."""
    graph = MoEDependencyGraph(bound, trial.roles(), guards=guards).build_dependency(trial.model(), trial.inputs)
    source = edges[0].source
    start = next(
        c for c in graph.classes for m in c.coupling.members if (m.parameter, m.dim) == source and not m.buffer
    )
    for edge in edges:
        graph.inject(edge.source, edge.target, edge.goes_to)
    with warnings.catch_warnings(), contextlib.suppress(PruningRefused):
        warnings.simplefilter("ignore")
        graph.group_of(start, [0])
    return graph

"""One step from scores to a plan that the model's configuration can express."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from moeverify.base.collector import without_collector
from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.skeleton import configured_part
from moeverify.pruning.choice.candidates import Selection
from moeverify.pruning.choice.ranking import Candidate, rank
from moeverify.pruning.choice.rounding import kept_units
from moeverify.pruning.configuration import ConfigUpdate, Probe, plan_update
from moeverify.pruning.configuration.entries import find_entries
from moeverify.pruning.configuration.factors import fixed_factors
from moeverify.pruning.constants.views import views_of
from moeverify.pruning.experts.removal import new_counts, with_experts
from moeverify.pruning.experts.request import Decision, ExpertRequest
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.roots import structure
from moeverify.pruning.plan.plan import Adjustment, Cut, Plan, Reason, make_plan
from moeverify.pruning.step.by_configuration import ByConfiguration
from moeverify.pruning.step.by_rehearsal import ByRehearsal
from moeverify.pruning.step.rehearsal import Rehearsal
from moeverify.pruning.step.settle import Judge, settle


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with the update of the configuration; ``update`` and ``probe`` are ``None`` for a model without one."""

    plan: Plan
    update: ConfigUpdate | None = None
    probe: Probe | None = None


def prepare(
    selection: Selection,
    step: int,
    round_to: int | None,
    example: Example,
    num_heads: Mapping[nn.Module, int] | None = None,
    experts: ExpertRequest | None = None,
) -> Prepared:
    """The plan of ``step``; ``example`` calls a model with the user's example inputs.

    ``experts`` is the request for whole experts. Raises ``PruningRefused`` if the configuration cannot express what was
    asked for by name, or if a model without one does not run with the pruned sizes.
    """
    with without_collector():
        return _prepare(selection, step, round_to, example, num_heads, experts)


def _prepare(
    selection: Selection,
    step: int,
    round_to: int | None,
    example: Example,
    num_heads: Mapping[nn.Module, int] | None,
    experts: ExpertRequest | None,
) -> Prepared:
    graph = selection.graph
    graph.expansions = 0
    decision = experts.decide(graph.model, graph.found_roles, example) if experts is not None else None
    found, stopped = selection.candidates(step)
    candidates = {c.pruning_class: c for c in found}
    named = _named(selection, candidates)
    counts = rank(found, round_to=round_to, max_ratio=selection.request.max_ratio, named=named)
    adjustments = [*stopped, *_rounded_up(candidates, counts, round_to)]

    def draft(counts: Mapping[PruningClass, int]) -> Plan:
        return _plan(graph, candidates, counts)

    def kind_of(pruning_class: PruningClass) -> Hashable:
        return structure(graph.nodes, pruning_class)

    probe = probe_of(graph)
    rehearsal = Rehearsal(graph, example, num_heads or {}, kind_of)
    judge: Judge = (
        ByRehearsal(rehearsal, draft, round_to)
        if probe is None
        else ByConfiguration(probe, example, graph, draft, kind_of, round_to)
    )
    settled = settle(judge, counts, named)
    plan = replace(settled.plan, adjustments=(*adjustments, *settled.plan.adjustments))
    if decision is None or not decision.cuts:
        return Prepared(plan, settled.update, probe)
    if probe is not None:
        return _counted_anew(plan, decision, probe)
    plan = with_experts(plan, decision.layout, decision.cuts)
    rehearsal.must_run(plan)
    return Prepared(plan)


def _counted_anew(plan: Plan, decision: Decision, probe: Probe) -> Prepared:
    """The plan with whole experts removed, and the configuration with their new number.

    Raises ``PruningRefused`` if the configuration cannot express it, or derives a constant from it.
    """
    plan = with_experts(plan, decision.layout, decision.cuts)
    plan = replace(plan, entries={**plan.entries, **new_counts(decision.layout, decision.cuts)})
    wanted = plan.shapes(probe.base)
    try:
        update = plan_update(probe, dict(plan.entries), wanted)
    except PruningRefused:  # experts of unequal width move up, and other entries give their widths then
        fewer = Probe(probe.build(new_counts(decision.layout, decision.cuts)))
        if fewer.base.keys() != wanted.keys() or (expression := find_entries(fewer, wanted)).wrong:
            raise
        plan = replace(plan, entries={**plan.entries, **expression.entries})
        update = plan_update(probe, dict(plan.entries), wanted)
    if more := sorted(set(update.constants()) - set(plan.constants)):
        path, name = more[0]
        raise PruningRefused(
            f"{path}.{name} is derived from the number of experts, and would change what the kept ones compute; leave "
            "whole experts out (ratios without `experts`)"
        )
    return Prepared(plan, update, probe)


def probe_of(graph: MoEDependencyGraph) -> Probe | None:
    """Probe of the configuration of a graph's model, or of a part that it wraps; made before anything is pruned.

    ``None`` without one. Raises ``PruningRefused`` if the model cannot be built from its own configuration.
    """
    part = configured_part(graph.model)
    if part is None:
        return None
    try:
        return Probe(graph.model, fixed_factors(graph.couplings), graph.layers_apart, views_of(graph.couplings))
    except PruningRefused as error:
        if not part:
            raise
        warnings.warn(f"the configuration of {part} is not updated to the pruned sizes: {error}", stacklevel=4)
        return None


def _plan(
    graph: MoEDependencyGraph,
    candidates: Mapping[PruningClass, Candidate],
    counts: Mapping[PruningClass, int],
) -> Plan:
    """The plan that keeps the best units of each class."""
    cuts = []
    for pruning_class, kept in counts.items():
        if kept < pruning_class.coupling.size:
            best = candidates[pruning_class].scores.topk(kept, dim=-1).indices.sort(dim=-1).values
            cuts.append(Cut(pruning_class, best.numpy().astype(np.int64)))
    places = {(m.parameter, dim) for cut in cuts for m in cut.pruning_class.coupling.members for dim in (0, m.dim)}
    return make_plan(cuts, {place: graph.live.size(place) for place in places})


def _rounded_up(
    candidates: Mapping[PruningClass, Candidate], counts: Mapping[PruningClass, int], round_to: int | None
) -> list[Adjustment]:
    """Classes that keep more than was asked, since no fewer units are a multiple of ``round_to``."""
    rounded = f"no fewer are a multiple of round_to={round_to}; with round_to=1 (--round-to 1) they are not rounded"
    reason = Reason(rounded if round_to else "one unit must stay")
    return [
        Adjustment(c, least, counts.get(c, c.coupling.size), reason)
        for c, candidate in candidates.items()
        if candidate.ranked_with is None and c.role != "heads"
        if counts.get(c, candidate.size) > (least := kept_units(candidate.initial, candidate.ratio))
    ]


def _named(selection: Selection, classes: Iterable[PruningClass]) -> frozenset[PruningClass]:
    """Classes among ``classes`` that were asked for by role or by layer."""
    request, nodes = selection.request, selection.graph.nodes
    return frozenset(
        c for c in classes if request.by_role.get(c.role) or request.scope(nodes.output_layers(c.coupling))
    )

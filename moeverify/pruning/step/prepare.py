"""One step from scores to a plan that the model's configuration can say."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.tracing.weightless import is_weightless
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example, without_collector
from moeverify.models.skeleton import configured_part
from moeverify.pruning.choice.candidates import Selection
from moeverify.pruning.choice.ranking import Candidate, rank
from moeverify.pruning.choice.rounding import kept_units
from moeverify.pruning.configuration import ConfigUpdate, Probe, plan_update
from moeverify.pruning.configuration.entries import find_entries
from moeverify.pruning.configuration.factors import held_factors
from moeverify.pruning.constants.derived import DoesNotRun
from moeverify.pruning.constants.views import views_of
from moeverify.pruning.experts.removal import new_counts, with_experts
from moeverify.pruning.experts.request import Decision, ExpertRequest
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.roots import structure
from moeverify.pruning.plan.plan import Adjustment, Cut, Plan, Reason, make_plan
from moeverify.pruning.step.in_step import Said, say
from moeverify.pruning.step.leave_out import FOLLOWS, common_share, largest_that_works
from moeverify.pruning.step.rehearsal import Rehearsal, Rehearsed
from moeverify.pruning.step.vanishing import NOT_NOTHING, has_no_reader, vanishes


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with what brings the configuration in step; ``update`` and ``probe`` are ``None`` for a model without."""

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
    """What ``step`` removes; ``example`` calls a model with the user's example inputs. ``experts`` asks for whole ones.

    Raises ``PruningRefused`` if the configuration cannot say what was asked by name, or if a model without one does not
    run with the pruned sizes.
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
    probe = probe_of(graph)
    if probe is None:
        rehearsal = Rehearsal(graph, example, num_heads or {}, lambda c: structure(graph.nodes, c))
        plan = _rehearsed(selection, rehearsal, candidates, counts, adjustments, round_to)
        if decision is not None and decision.cuts:
            plan = with_experts(plan, decision.layout, decision.cuts)
            rehearsal.must_run(plan)
        return Prepared(plan)
    said = _say(selection, probe, counts, round_to, example)
    plan = _plan(graph, candidates, said.counts, [*adjustments, *said.adjustments])
    plan = replace(plan, entries=said.entries, folds=said.folds, constants=said.update.constants())
    if decision is None or not decision.cuts:
        return Prepared(plan, said.update, probe)
    return _counted_anew(plan, decision, probe)


def _counted_anew(plan: Plan, decision: Decision, probe: Probe) -> Prepared:
    """The plan with whole experts removed, and the configuration that says their number.

    Raises ``PruningRefused`` if the configuration cannot say it, or derives a constant from it.
    """
    plan = with_experts(plan, decision.layout, decision.cuts)
    plan = replace(plan, entries={**plan.entries, **new_counts(decision.layout, decision.cuts)})
    wanted = plan.shapes(probe.base)
    try:
        update = plan_update(probe, dict(plan.entries), wanted)
    except PruningRefused:  # experts of unequal width move up, and other entries give their widths then
        fewer = Probe(probe.build(new_counts(decision.layout, decision.cuts)))
        if fewer.base.keys() != wanted.keys() or (found := find_entries(fewer, wanted)).wrong:
            raise
        plan = replace(plan, entries={**plan.entries, **found.entries})
        update = plan_update(probe, dict(plan.entries), wanted)
    if more := sorted(set(update.constants()) - set(plan.constants)):
        path, name = more[0]
        raise PruningRefused(
            f"{path}.{name} is derived from the number of experts, and would change what the kept ones compute; leave "
            "whole experts out (ratios without `experts`)"
        )
    return Prepared(plan, update, probe)


def probe_of(graph: MoEDependencyGraph) -> Probe | None:
    """What the configuration of a graph's model, or of a part that it wraps, can say; made before anything is pruned.

    ``None`` without one. Raises ``PruningRefused`` if the model cannot be built from its own configuration.
    """
    part = configured_part(graph.model)
    if part is None:
        return None
    try:
        return Probe(graph.model, held_factors(graph.couplings), graph.layers_apart, views_of(graph.couplings))
    except PruningRefused as error:
        if not part:
            raise
        warnings.warn(f"the configuration of {part} is not brought in step: {error}", stacklevel=4)
        return None


def _plan(
    graph: MoEDependencyGraph,
    candidates: Mapping[PruningClass, Candidate],
    counts: Mapping[PruningClass, int],
    adjustments: Sequence[Adjustment],
) -> Plan:
    """The plan that keeps the best units of each class."""
    cuts = []
    for pruning_class, kept in counts.items():
        if kept < pruning_class.coupling.size:
            best = candidates[pruning_class].scores.topk(kept, dim=-1).indices.sort(dim=-1).values
            cuts.append(Cut(pruning_class, best.numpy().astype(np.int64)))
    places = {(m.parameter, dim) for cut in cuts for m in cut.pruning_class.coupling.members for dim in (0, m.dim)}
    return make_plan(cuts, {place: graph.live.size(place) for place in places}, adjustments)


def _rehearsed(
    selection: Selection,
    rehearsal: Rehearsal,
    candidates: Mapping[PruningClass, Candidate],
    wanted: Mapping[PruningClass, int],
    adjustments: Sequence[Adjustment],
    round_to: int | None,
) -> Plan:
    """The plan for a model without configuration.

    Classes with which its forward does not run are left alone, and so are those that a number in it hangs on if no
    weight can take over the difference. Raises ``PruningRefused`` if that concerns one that was asked for by name.
    """
    graph, counts, told = selection.graph, dict(wanted), list(adjustments)
    remembered: dict[frozenset[tuple[PruningClass, int]], Rehearsed] = {}
    named = _named(selection, wanted)

    def rehearsed(counts: Mapping[PruningClass, int]) -> Rehearsed:
        key = frozenset(counts.items())
        if key not in remembered:
            plan = _plan(graph, candidates, counts, ())
            remembered[key] = rehearsal.of(plan) if plan.cuts else Rehearsed()
        return remembered[key]

    def fails(counts: Mapping[PruningClass, int]) -> Reason | None:
        trouble = rehearsed(counts).trouble
        return None if trouble is None else trouble.reason

    for c in _that_do_not_vanish(rehearsal, {c: _plan(graph, candidates, {c: k}, ()) for c, k in counts.items()}):
        told.append(Adjustment(c, counts.pop(c), c.coupling.size, Reason(NOT_NOTHING)))
        if c in named:
            raise PruningRefused(str(told[-1]))
    while True:
        found = rehearsed(counts)
        derived = found.derived
        reasons: Mapping[PruningClass, Reason]
        if found.trouble is not None:
            if (shared := common_share(counts, fails, rehearsal.kind_of, named, round_to)) is not None:
                why = replace(found.trouble.reason, text=f"{FOLLOWS} {found.trouble.reason.text}")
                told += [Adjustment(c, counts[c], k, why) for c, k in shared.items()]
                counts.update(shared)
                continue
            _, reasons = largest_that_works(counts, fails, rehearsal.kind_of, named)
        elif derived.stuck or derived.otherwise:
            reasons = derived.divided(counts)
            if not reasons:
                alone = {c: _plan(graph, candidates, {c: kept}, ()) for c, kept in counts.items()}
                guilty = [c for c, plan in alone.items() if rehearsal.changes(plan, found.attributes, derived.stuck)]
                reasons = dict.fromkeys(guilty or counts, derived.hangs)
        else:
            plan = _plan(graph, candidates, counts, told)
            return replace(plan, folds=derived.folds, attributes=found.attributes)
        for c, reason in reasons.items():
            told.append(Adjustment(c, counts.pop(c), c.coupling.size, reason))
            if c in named:
                raise PruningRefused(str(told[-1]))


def _that_do_not_vanish(rehearsal: Rehearsal, plans: Mapping[PruningClass, Plan]) -> list[PruningClass]:
    """Classes without a reader whose units would add to the outputs even with weights of zero."""
    graph = rehearsal.graph
    sizes = {name: parameter.dim() for name, parameter in graph.model.named_parameters()}
    nothing: dict[object, bool] = {}
    for c, plan in plans.items():
        kind = rehearsal.kind_of(c)
        if kind not in nothing and plan.cuts and has_no_reader(c, sizes) and not is_weightless(graph.model):
            found = rehearsal.of(plan)
            # A copy that does not run, or computes otherwise for another reason, shows nothing.
            blind = found.trouble is not None or bool(graph.own_functions()) or bool(found.derived.stuck)
            whole = replace(plan, attributes=found.attributes, folds=found.derived.folds)
            nothing[kind] = blind or vanishes(graph.model, whole, rehearsal.example)
    return [c for c in plans if not nothing.get(rehearsal.kind_of(c), True)]


def _rounded_up(
    candidates: Mapping[PruningClass, Candidate], counts: Mapping[PruningClass, int], round_to: int | None
) -> list[Adjustment]:
    """Classes that keep more than was asked, since no fewer units are a multiple of ``round_to``."""
    reason = Reason(f"no fewer are a multiple of round_to={round_to}" if round_to else "one unit must stay")
    return [
        Adjustment(c, least, counts.get(c, c.coupling.size), reason)
        for c, candidate in candidates.items()
        if candidate.ranked_with is None and c.role != "heads"
        if counts.get(c, candidate.size) > (least := kept_units(candidate.initial, candidate.ratio))
    ]


def _say(
    selection: Selection,
    probe: Probe,
    counts: Mapping[PruningClass, int],
    round_to: int | None,
    example: Example,
) -> Said:
    """The counts nearest to ``counts`` that the configuration can say; those asked for by name must stay.

    Classes that it cannot say, or with which the forward does not run, are left alone, unless they were asked for by
    name.
    """
    graph, named = selection.graph, _named(selection, counts)

    def said(counts: Mapping[PruningClass, int], named: frozenset[PruningClass]) -> Said:
        return say(probe, counts, example, graph.found_roles, round_to=round_to, named=named)

    def fails(counts: Mapping[PruningClass, int]) -> Reason | None:
        try:
            said(counts, frozenset())
        except DoesNotRun as error:
            return error.reason
        except PruningRefused as error:
            return Reason(str(error))
        return None

    try:
        return said(counts, named)
    except PruningRefused:
        if fails(counts) is None:  # what stands in the way concerns what was asked for by name
            raise
    kept, reasons = largest_that_works(counts, fails, lambda c: structure(graph.nodes, c), named)
    left = tuple(Adjustment(c, counts[c], c.coupling.size, reason) for c, reason in reasons.items())
    for adjustment in left:
        if adjustment.pruning_class in named:
            raise PruningRefused(str(adjustment))
    found = said(kept, named)
    return replace(found, adjustments=(*left, *found.adjustments))


def _named(selection: Selection, classes: Iterable[PruningClass]) -> frozenset[PruningClass]:
    """Those of ``classes`` that were asked for by role or by layer."""
    request, nodes = selection.request, selection.graph.nodes
    return frozenset(
        c for c in classes if request.by_role.get(c.role) or request.scope(nodes.output_layers(c.coupling))
    )

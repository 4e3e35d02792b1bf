"""One step from scores to a plan that the model's configuration can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from moeverify.pruning.candidates import Selection
from moeverify.pruning.classes import OTHER, PruningClass
from moeverify.pruning.configuration import (
    Adjustment,
    ConfigUpdate,
    Probe,
    has_config,
)
from moeverify.pruning.configuration.factors import held_factors
from moeverify.pruning.example import Example
from moeverify.pruning.in_step import Said, say
from moeverify.pruning.plan import Cut, Plan, make_plan
from moeverify.pruning.ranking import Candidate, rank
from moeverify.pruning.rounding import kept_units


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan with what brings the configuration in step; ``update`` and ``probe`` are ``None`` for a model without."""

    plan: Plan
    update: ConfigUpdate | None = None
    probe: Probe | None = None


def prepare(selection: Selection, step: int, round_to: int | None, example: Example) -> Prepared:
    """What ``step`` removes; ``example`` calls a model with the user's example inputs.

    Raises ``PruningRefused`` if the configuration cannot say what was asked by name.
    """
    graph = selection.graph
    graph.expansions = 0
    found, stopped = selection.candidates(step)
    candidates = {c.pruning_class: c for c in found}
    counts = rank(found, round_to=round_to, max_ratio=selection.request.max_ratio)
    adjustments = [*stopped, *_rounded_up(candidates, counts, round_to)]
    probe = Probe(graph.model, held_factors(graph.couplings)) if has_config(graph.model) else None
    said = None if probe is None else _say(selection, probe, counts, round_to, example)
    if said is not None:
        counts = dict(said.counts)
        adjustments += said.adjustments
    cuts = []
    for pruning_class, kept in counts.items():
        if kept < pruning_class.coupling.size:
            best = candidates[pruning_class].scores.topk(kept, dim=-1).indices.sort(dim=-1).values
            cuts.append(Cut(pruning_class, best.numpy().astype(np.int64)))
    places = {(m.parameter, dim) for cut in cuts for m in cut.pruning_class.coupling.members for dim in (0, m.dim)}
    plan = make_plan(cuts, {place: graph.live.size(place) for place in places}, adjustments)
    if said is None:
        return Prepared(plan)
    constants = said.update.constants()
    plan = replace(plan, entries=said.entries, folds=said.folds, constants=constants)
    return Prepared(plan, said.update, probe)


def _rounded_up(
    candidates: Mapping[PruningClass, Candidate], counts: Mapping[PruningClass, int], round_to: int | None
) -> list[Adjustment]:
    """Classes that keep more than was asked, since no fewer units are a multiple of ``round_to``."""
    return [
        Adjustment(c, least, counts.get(c, c.coupling.size), f"no fewer are a multiple of round_to={round_to}")
        for c, candidate in candidates.items()
        if candidate.ranked_with is None and c.role == OTHER
        if counts.get(c, candidate.size) > (least := kept_units(candidate.initial, candidate.ratio))
    ]


def _say(
    selection: Selection,
    probe: Probe,
    counts: Mapping[PruningClass, int],
    round_to: int | None,
    example: Example,
) -> Said:
    """The counts nearest to ``counts`` that the configuration can say; those asked for by name must stay."""
    request, nodes = selection.request, selection.graph.nodes
    named = {c for c in counts if request.by_role.get(c.role) or request.scope(nodes.output_layers(c.coupling))}
    return say(probe, counts, example, selection.graph.found_roles, round_to=round_to, named=frozenset(named))

"""The judge for models without a configuration: a pruned copy must compute what the model computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.tracing.weightless import is_weightless
from moeverify.pruning.constants.derived import DoesNotRun
from moeverify.pruning.plan.plan import Plan, Reason
from moeverify.pruning.step.leave_out import Counts, Fails, common_share
from moeverify.pruning.step.rehearsal import Rehearsal, Rehearsed
from moeverify.pruning.step.settle import Judgement, Reasons
from moeverify.pruning.step.vanishing import NOT_NOTHING, has_no_reader, vanishes


class ByRehearsal:
    """Tests counts by carrying them out on a copy. ``draft`` makes a plan of counts.

    Classes block a plan if a number in the forward follows from their size and no weight takes it over.
    """

    def __init__(self, rehearsal: Rehearsal, draft: Callable[[Counts], Plan], round_to: int | None = None) -> None:
        self._rehearsal, self._draft, self._round_to = rehearsal, draft, round_to

    def kind_of(self, pruning_class: PruningClass) -> Hashable:
        """Key that alike classes of different layers share."""
        return self._rehearsal.kind_of(pruning_class)

    def unfit(self, counts: Counts) -> Reasons:
        """Classes whose units no weight reads and which would add to the outputs even with weights of zero."""
        rehearsal, graph = self._rehearsal, self._rehearsal.graph
        sizes = {name: parameter.dim() for name, parameter in graph.model.named_parameters()}
        vanish: dict[Hashable, bool] = {}
        for c, kept in counts.items():
            plan = self._draft({c: kept})
            kind = self.kind_of(c)
            if kind not in vanish and plan.cuts and has_no_reader(c, sizes) and not is_weightless(graph.model):
                outcome = rehearsal.of(plan)
                # A copy that does not run, or computes otherwise for another reason, shows nothing.
                blind = outcome.trouble is not None or bool(graph.own_functions()) or bool(outcome.derived.obstacles)
                whole = replace(plan, attributes=outcome.attributes, folds=outcome.derived.folds)
                vanish[kind] = blind or vanishes(graph.model, whole, rehearsal.example)
        return {c: Reason(NOT_NOTHING) for c in counts if not vanish.get(self.kind_of(c), True)}

    def judge(self, counts: Counts) -> Judgement:
        """The plan, with the attributes that must change and the folds for numbers in the forward."""
        plan = self._draft(counts)
        outcome = self._rehearsal.of(plan) if plan.cuts else Rehearsed()
        if outcome.trouble is not None:
            return Judgement(refused=DoesNotRun(outcome.trouble.reason))
        if outcome.derived.obstacles or outcome.derived.views:
            return Judgement(blocking=lambda: self._blocking(counts, outcome))
        return Judgement(replace(plan, folds=outcome.derived.folds, attributes=outcome.attributes))

    def shared(self, counts: Counts, fails: Fails, named: frozenset[PruningClass]) -> Mapping[PruningClass, int] | None:
        """Counts with one common share for several classes, if all classes can be cut with that share."""
        return common_share(counts, fails, self.kind_of, named, self._round_to)

    def _blocking(self, counts: Counts, outcome: Rehearsed) -> Reasons:
        """Reasons for the classes that by themselves change a derived number or a view; for all if none does."""
        if reasons := outcome.derived.divided(counts):
            return reasons
        alone = {c: self._draft({c: kept}) for c, kept in counts.items()}
        guilty = [
            c for c, p in alone.items() if self._rehearsal.changes(p, outcome.attributes, outcome.derived.obstacles)
        ]
        return dict.fromkeys(guilty or counts, outcome.derived.reason)

"""The judge for models with a configuration: entries must give the new sizes, and no trained constant may change.

Nothing is changed before a plan is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.pruning.configuration import Probe, express, plan_update, shapes_of, wanted_shapes
from moeverify.pruning.configuration.express import Expression, dims_of
from moeverify.pruning.configuration.probe import Attribute, Entries, Move
from moeverify.pruning.configuration.update import ConfigUpdate
from moeverify.pruning.constants.constants import Constants, keep_constants, merged
from moeverify.pruning.constants.derived import Derived, DerivedNumbers
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.plan.plan import Plan, Reason
from moeverify.pruning.step.leave_out import Counts, Fails
from moeverify.pruning.step.settle import Judgement, Reasons

_Updated = tuple[ConfigUpdate, Constants, Derived]


class ByConfiguration:
    """Tests counts by searching for a configuration that expresses them.

    ``draft`` makes a plan of counts. ``kind_of`` gives a key that alike classes of different layers share.
    """

    def __init__(
        self,
        probe: Probe,
        example: Example,
        graph: MoEDependencyGraph,
        draft: Callable[[Counts], Plan],
        kind_of: Callable[[PruningClass], Hashable],
        round_to: int | None = None,
    ) -> None:
        self._probe, self._example, self._draft, self._round_to = probe, example, draft, round_to
        self._numbers, self._couplings = DerivedNumbers(probe, example, graph.found_roles), graph.couplings
        self.kind_of = kind_of

    def unfit(self, counts: Counts) -> Reasons:
        """Classes with a slice of constant bounds: nothing shows whether the bounds follow from a size."""
        lines = {c: self._couplings.sliced(c.coupling) for c in counts}
        return {c: Reason(CUT_BY_NUMBER, line) for c, line in lines.items() if line is not None}

    def shared(self, counts: Counts, fails: Fails, named: frozenset[PruningClass]) -> None:
        """None: ``judge`` itself gives the classes of one entry a common share."""

    def judge(self, counts: Counts) -> Judgement:
        """A plan with counts nearest to ``counts`` that a configuration gives without changing a trained constant.

        Classes block the plan if a constant of the architecture follows from their size and no weight takes it over.
        """
        probe = self._probe
        try:
            expression = express(probe, counts, round_to=self._round_to)
            update, constants, derived = self._updated(expression.entries, expression.counts)
            if derived.views:
                update, constants, derived = self._with_heads(expression) or (update, constants, derived)
        except PruningRefused as error:
            return Judgement(refused=error)
        if reasons := self._blocking(counts, update.entries, constants, derived):
            return Judgement(blocking=lambda: reasons)
        if obstacle := _first_obstacle(constants, derived):
            text = f"{obstacle} would change with the sizes, and no weight can take over the difference"
            return Judgement(refused=PruningRefused(text))
        if derived.views:
            return Judgement(refused=PruningRefused(str(derived.views[0].reason)))
        plan = replace(
            self._draft(expression.counts),
            entries=update.entries,
            folds=merged([*constants.folds, *derived.folds]),
            constants=update.constants(),
            adjustments=expression.adjustments,
        )
        return Judgement(plan, update)

    def _updated(self, entries: Entries, counts: Counts) -> _Updated:
        """The update for ``entries``, and what becomes of the constants. Raises ``PruningRefused``."""
        update = plan_update(self._probe, entries, wanted_shapes(shapes_of(self._probe.model), counts))
        constants = keep_constants(self._probe.model, update.constants(), self._example)
        return update, constants, self._numbers.keep(update)

    def _with_heads(self, expression: Expression) -> _Updated | None:
        """The update with a number of heads that no shape shows, if heads keep their width with it and not without it.

        Example: ``n_embd`` gives all sizes, and the forward divides ``n_embd`` by ``n_head``.
        """
        values, given = self._probe.values, expression.entries
        pairs = {(c.coupling.size, kept) for c, kept in expression.counts.items() if c.role == "heads"}
        tried = [{path: kept} for size, kept in sorted(pairs) for path, n in values.items() if n == size != kept]
        for more in (*tried, {path: kept for one in tried for path, kept in one.items()}):
            if self._probe.shapes({**given, **more}) is None:
                continue
            with contextlib.suppress(PruningRefused):
                update, constants, derived = self._updated({**given, **more}, expression.counts)
                if not derived.views and not _first_obstacle(constants, derived):
                    return update, constants, derived
        return None

    def _blocking(self, counts: Counts, entries: Entries, constants: Constants, derived: Derived) -> Reasons:
        """Classes whose size changes a constant that no weight takes over, or the factors of a view; each with the
        reason.
        """
        moves = self._numbers.deciding(derived.obstacles, entries)
        guilty = [c for c in counts if _decides(self._probe, c, constants, entries, moves)]
        text = f"{_first_obstacle(constants, derived)} is derived from it, and no weight can take over the difference"
        reasons: Mapping[PruningClass, Reason] = dict.fromkeys(guilty, Reason(text))
        return reasons or derived.divided(counts)


def _first_obstacle(constants: Constants, derived: Derived) -> str:
    """Name of the first constant that no weight takes over; empty if there is none."""
    named = [*(f"{path}.{name}" for path, name in constants.obstacles), *(number.name for number in derived.obstacles)]
    return named[0] if named else ""


def _decides(
    probe: Probe, pruning_class: PruningClass, constants: Constants, entries: Entries, moves: Sequence[Move]
) -> bool:
    """Whether an entry that sets the size of a class also changes a constant that cannot be kept.

    ``moves`` are the moves that change such a constant inside of a forward.
    """
    obstacles: set[Attribute] = set(constants.obstacles)
    dims = dims_of(pruning_class)
    return any(
        (not obstacles.isdisjoint(move.attributes) or move in moves)
        and not dims.isdisjoint(move.slopes)
        and any(entries.get(path, probe.values[path]) != probe.values[path] for path in move.up)
        for move in probe.moves
    )

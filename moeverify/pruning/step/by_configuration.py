"""The judge for models with a configuration: some entries must say the new sizes, and constants must stay.

Nothing is changed before a plan is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.pruning.configuration import Probe, express, plan_update, shapes_of, wanted_shapes
from moeverify.pruning.configuration.express import dims_of
from moeverify.pruning.configuration.probe import Attribute, Entries, Move
from moeverify.pruning.constants.constants import Constants, keep_constants, merged
from moeverify.pruning.constants.derived import Derived, DerivedNumbers
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.plan.plan import Plan, Reason
from moeverify.pruning.step.leave_out import Counts, Fails
from moeverify.pruning.step.settle import Judgement, Reasons


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
        """Classes that slices with constant bounds take apart: nothing shows that the bounds follow a size."""
        lines = {c: self._couplings.sliced(c.coupling) for c in counts}
        return {c: Reason(CUT_BY_NUMBER, line) for c, line in lines.items() if line is not None}

    def shared(self, counts: Counts, fails: Fails, named: frozenset[PruningClass]) -> None:
        """No counts: ``judge`` shares one ratio among the classes of an entry by itself."""

    def judge(self, counts: Counts) -> Judgement:
        """Counts as near to ``counts`` as the configuration can say without a change of what was trained.

        Classes hang on a constant of the architecture that is derived from their size, if no weight takes it over.
        """
        probe = self._probe
        try:
            expression = express(probe, counts, round_to=self._round_to)
            update = plan_update(probe, expression.entries, wanted_shapes(shapes_of(probe.model), expression.counts))
            constants = keep_constants(probe.model, update.constants(), self._example)
            derived = self._numbers.keep(update)
        except PruningRefused as error:
            return Judgement(refused=error)
        if reasons := self._blocking(counts, expression.entries, constants, derived):
            return Judgement(blocking=lambda: reasons)
        if obstacle := _first_obstacle(constants, derived):
            text = f"{obstacle} would change with the sizes, and no weight can take over the difference"
            return Judgement(refused=PruningRefused(text))
        if derived.views:
            return Judgement(refused=PruningRefused(str(derived.views[0].reason)))
        plan = replace(
            self._draft(expression.counts),
            entries=expression.entries,
            folds=merged([*constants.folds, *derived.folds]),
            constants=update.constants(),
            adjustments=expression.adjustments,
        )
        return Judgement(plan, update)

    def _blocking(self, counts: Counts, entries: Entries, constants: Constants, derived: Derived) -> Reasons:
        """Classes that a constant or a view without a remedy follows from."""
        moves = self._numbers.deciding(derived.obstacles, entries)
        guilty = [c for c in counts if _decides(self._probe, c, constants, entries, moves)]
        text = f"{_first_obstacle(constants, derived)} is derived from it, and no weight can take over the difference"
        reasons: Mapping[PruningClass, Reason] = dict.fromkeys(guilty, Reason(text))
        return reasons or derived.divided(counts)


def _first_obstacle(constants: Constants, derived: Derived) -> str:
    """A constant that nothing takes over, as text for messages; empty if there is none."""
    named = [*(f"{path}.{name}" for path, name in constants.obstacles), *(number.name for number in derived.obstacles)]
    return named[0] if named else ""


def _decides(
    probe: Probe, pruning_class: PruningClass, constants: Constants, entries: Entries, moves: Sequence[Move]
) -> bool:
    """Whether a changed entry sets the size of a class, and a constant that cannot be kept is derived from that entry.

    ``moves`` are those that change such a number inside of a forward.
    """
    obstacles: set[Attribute] = set(constants.obstacles)
    dims = dims_of(pruning_class)
    return any(
        (not obstacles.isdisjoint(move.attributes) or move in moves)
        and not dims.isdisjoint(move.slopes)
        and any(entries.get(path, probe.values[path]) != probe.values[path] for path in move.up)
        for move in probe.moves
    )

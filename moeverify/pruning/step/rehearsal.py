"""Rehearsal of a plan on a copy, for models without a configuration. The copy shows sizes that are written into a
``forward`` or kept in attributes, and numbers that it derives from sizes.

The copy has no weights if the model runs without them, so that it takes no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.cuts import CUT_BY_NUMBER
from moeverify.coupling.tracing.weightless import without_weights
from moeverify.errors import PruningRefused, TraceError
from moeverify.models.forward import Example
from moeverify.pruning.attributes.assignment import Assignment, Chosen, Reached, assign
from moeverify.pruning.attributes.change import AttributeChange, set_attributes
from moeverify.pruning.attributes.proposals import Proposal, proposals
from moeverify.pruning.constants.constants import merged
from moeverify.pruning.constants.derived import Derived, compare
from moeverify.pruning.constants.numbers import Forward, Number, changed_numbers
from moeverify.pruning.constants.recorder import ForwardFailed, record_forward
from moeverify.pruning.constants.views import View, changed_views, views_of
from moeverify.pruning.plan.apply import apply_plan
from moeverify.pruning.plan.plan import Plan, Reason
from moeverify.pruning.step.expected_shapes import Expectations, all_expected, expectations, first_unexpected
from moeverify.pruning.step.heads import head_count_changes, head_counts_after
from moeverify.pruning.step.same_way import first_difference

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


@dataclass(frozen=True)
class Trouble:
    """Reason why a pruned model does not compute as before, and how far its forward came.

    ``reached`` grows with the number of operations. At the same operation, an unexpected result counts as farther than
    an exception. ``second_meaning``: whether the cause is an attribute that also means something else.
    """

    reason: Reason
    reached: int
    second_meaning: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """Outcome of a rehearsal: attributes to set and numbers to take over, beside the cuts.

    ``trouble``: why the plan does not run; ``None`` if it does.
    """

    attributes: tuple[AttributeChange, ...] = ()
    derived: Derived = field(default_factory=Derived)
    trouble: Trouble | None = None


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Carries out plans on copies of a graph's model.

    ``num_heads`` are the head counts that a user gave by layer; ``kind_of`` is the same for classes that are alike in
    different layers.
    """

    graph: MoEDependencyGraph
    example: Example
    num_heads: Mapping[nn.Module, int]
    kind_of: Callable[[PruningClass], Hashable]

    @cached_property
    def _without_weights(self) -> Forward | None:
        try:
            return record_forward(without_weights(self.graph.model), self.example)
        except TraceError:
            return None

    @property
    def _runs_without_weights(self) -> bool:
        return self._without_weights is not None

    @cached_property
    def before(self) -> Forward:
        """The forward of the unpruned model. Raises ``TraceError`` if it fails."""
        return self._without_weights or record_forward(self._copy(), self.example, weights=True)

    @cached_property
    def _views(self) -> tuple[View, ...]:
        return views_of(self.graph.couplings)

    @cached_property
    def _expected(self) -> Expectations | None:
        if not self._runs_without_weights:
            return None
        return expectations(self._copy(), self.example, self.graph.held_heads)

    def of(self, plan: Plan) -> Rehearsed:
        """The attributes that must change for the pruned model to run, and the numbers that its forward derives from
        sizes.
        """
        model = self._pruned(plan)
        wanted = self._expected.of(plan) if self._expected is not None else []
        lines = (self.graph.couplings.sliced(cut.pruning_class.coupling) for cut in plan.cuts)
        sliced = next((line for line in lines if line is not None), None)
        forwards: dict[Chosen, Forward] = {}
        troubles: dict[Chosen, Trouble] = {}

        @cache
        def trial(chosen: Chosen) -> Reached:
            changes = [change for proposal in chosen for change in proposal.changes]
            forwards[chosen], trouble = self._run(model, changes, wanted)
            if trouble is None and sliced is not None and not all_expected(wanted, forwards[chosen]):
                trouble = Trouble(Reason(CUT_BY_NUMBER, sliced), 4 * len(forwards[chosen].steps) + 4)
            if trouble is None:
                return Reached(0, True)
            if sliced and not trouble.reason.line:
                trouble = replace(trouble, reason=replace(trouble.reason, line=sliced))
            troubles[chosen] = trouble
            return Reached(trouble.reached, False, trouble.reason)

        usual = self._head_counts(plan)
        chosen: Chosen | None = next((chosen for chosen in (usual, frozenset()) if trial(chosen).done), None)
        if chosen is None:
            assignment = assign(trial, proposals(self.graph.model, plan, self.kind_of))
            if assignment.chosen is None:
                farthest = max(troubles.values(), key=lambda trouble: trouble.reached)
                return Rehearsed(trouble=_described(troubles[frozenset()], farthest, assignment))
            chosen = frozenset(assignment.chosen)
        if trial(more := _with(chosen, usual)).done:  # counts that the forward does not read
            chosen = more
        changes = tuple(sorted((c for proposal in chosen for c in proposal.changes), key=str))
        if not self._runs_without_weights:  # numbers that come from data cannot be told from those that sizes give
            return Rehearsed(changes)
        derived = compare(self.before, forwards[chosen], self._views, self.graph.model, self.graph.found_roles)
        return Rehearsed(changes, replace(derived, folds=merged(derived.folds)))

    def changes(self, plan: Plan, attributes: Sequence[AttributeChange], numbers: Sequence[Number]) -> bool:
        """Whether ``plan`` with these attributes changes one of ``numbers``."""
        places = {(n.module, n.operation, n.step) for n in numbers}
        forward, trouble = self._run(self._pruned(plan), attributes, [])
        if trouble is not None:  # it runs only together with others
            return False
        return not places.isdisjoint((n.module, n.operation, n.step) for n in changed_numbers(self.before, forward))

    def _run(
        self, pruned: nn.Module, attributes: Sequence[AttributeChange], wanted: Sequence
    ) -> tuple[Forward, Trouble | None]:
        """One forward of a copy with ``attributes`` set, and the first trouble in it."""
        failed: Trouble | None = None
        model = copy.deepcopy(pruned)  # a forward may leave something in its modules
        set_attributes(model, attributes)
        try:
            forward = record_forward(model, self.example, weights=not self._runs_without_weights)
        except ForwardFailed as error:
            forward = error.forward
            failed = Trouble(error.where, 2 * (forward.entered + len(forward.steps)))
        number = first_unexpected(wanted, forward)
        views = sorted(changed_views(self._views, self.before, forward), key=lambda view: view.step)
        if views and (number is None or views[0].step <= number):
            return forward, Trouble(views[0].reason, 4 * views[0].step + 3)
        if number is not None:
            step = forward.steps[number]
            text = f"{step.operation} in the forward of {step.module or 'the model'} would not follow the cut"
            return forward, Trouble(Reason(text, step.line), 4 * number + 3)
        if failed is None and attributes and (number := first_difference(self.before, forward)) is not None:
            step = forward.steps[number]
            what = ", ".join(map(str, attributes[:3]))
            where = step.module or "the model"
            text = f"the forward of {where} would compute something else ({step.operation}) with {what}"
            return forward, Trouble(Reason(text, step.line), 4 * number + 3, second_meaning=True)
        return forward, failed

    def _copy(self) -> nn.Module:
        if self._runs_without_weights:
            return without_weights(self.graph.model)
        return copy.deepcopy(self.graph.model).eval()

    def _pruned(self, plan: Plan) -> nn.Module:
        model = self._copy()
        own = {
            name: function._replace(layer=model.get_submodule(self.graph.name_of(function.layer)))
            for name, function in self.graph.own_functions().items()
        }
        apply_plan(model, plan, own)
        return model

    def _head_counts(self, plan: Plan) -> Chosen:
        """Attributes that hold a number of heads, by name and value."""
        changes = head_count_changes(self.graph.model, head_counts_after(self.num_heads, plan, self.graph))
        return frozenset(Proposal((change,)) for change in changes)

    def must_run(self, plan: Plan) -> None:
        """Raise ``PruningRefused`` unless a copy that was pruned by ``plan`` runs on the example inputs."""
        model = copy.deepcopy(self.graph.model).eval()
        own = {
            name: function._replace(layer=model.get_submodule(self.graph.name_of(function.layer)))
            for name, function in self.graph.own_functions().items()
        }
        apply_plan(model, plan, own)
        set_attributes(model, plan.attributes)
        try:
            with torch.no_grad():
                self.example(model)
        except Exception as error:
            line = left_by(error)
            raise PruningRefused(
                f"the model does not run with fewer experts ({line}); its forward has their number written into it: "
                "leave whole experts out (ratios without `experts`)"
            ) from error


def _with(chosen: Chosen, usual: Chosen) -> Chosen:
    """``chosen`` together with those of ``usual`` that set other slots."""
    taken = {slot for proposal in chosen for slot in proposal.slots}
    return chosen | {proposal for proposal in usual if taken.isdisjoint(proposal.slots)}


def _described(trouble: Trouble, farthest: Trouble, assignment: Assignment) -> Trouble:
    """The trouble with no attribute changed; its text adds why the attributes that led farthest do not help."""
    if assignment.rivals:
        first, second = assignment.rivals
        text = f"{trouble.reason.text}; either of two attributes would do, {first} or {second}"
        return replace(trouble, reason=Reason(text, trouble.reason.line))
    if farthest.second_meaning:
        text = f"{trouble.reason}; {farthest.reason.text}"
        return replace(trouble, reason=Reason(text, farthest.reason.line))
    return trouble

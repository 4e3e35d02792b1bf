"""Without a configuration to rebuild from, a copy is pruned first: sizes written into a ``forward`` show, and numbers
that it derives from sizes.

The copy has no weights if the model runs without them, so that it takes no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from moeverify.errors import PruningRefused, TraceError
from moeverify.models.forward import Example
from moeverify.pruning.constants.constants import merged
from moeverify.pruning.constants.derived import Derived, compare
from moeverify.pruning.constants.numbers import Forward, Number, changed_numbers, record_forward
from moeverify.pruning.constants.views import View, views_of
from moeverify.pruning.plan.apply import apply_plan
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.heads import head_counts_after, write_head_counts

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Carries out plans on copies of a graph's model; ``num_heads`` are the head counts that a user gave by layer."""

    graph: MoEDependencyGraph
    example: Example
    num_heads: Mapping[nn.Module, int]

    @cached_property
    def before(self) -> Forward | None:
        """The forward as it is, ``None`` if it does not run without weights."""
        try:
            return record_forward(self.graph.model, self.example)
        except TraceError:
            return None

    @cached_property
    def _views(self) -> tuple[View, ...]:
        return views_of(self.graph.couplings)

    def of(self, plan: Plan) -> Derived:
        """What becomes of the numbers that the forward derives from sizes.

        Raises ``PruningRefused`` if the pruned model does not run.
        """
        if self.before is None:
            self._run_with_weights(plan)
            return Derived()
        derived = compare(self.before, self._after(plan), self._views, self.graph.model, self.graph.found_roles)
        return replace(derived, folds=merged(derived.folds))

    def changes(self, plan: Plan, numbers: tuple[Number, ...]) -> bool:
        """Whether ``plan`` changes one of ``numbers``."""
        places = {(n.module, n.operation, n.step) for n in numbers}
        assert self.before is not None
        changed = changed_numbers(self.before, self._after(plan))
        return not places.isdisjoint((n.module, n.operation, n.step) for n in changed)

    def _after(self, plan: Plan) -> Forward:
        try:
            return record_forward(self._pruned(plan, _without_weights(self.graph.model)), self.example)
        except TraceError as error:
            raise _refusal(error.__cause__ or error) from error

    def _pruned(self, plan: Plan, model: nn.Module) -> nn.Module:
        own = {
            name: function._replace(layer=model.get_submodule(self.graph.name_of(function.layer)))
            for name, function in self.graph.nodes.own_functions().items()
        }
        apply_plan(model, plan, own)
        write_head_counts(model, head_counts_after(self.num_heads, plan, self.graph))
        return model

    def _run_with_weights(self, plan: Plan) -> None:
        rehearsed = self._pruned(plan, copy.deepcopy(self.graph.model).eval())
        try:
            with torch.no_grad():
                self.example(rehearsed)
        except Exception as error:
            raise _refusal(error) from error


def _refusal(error: BaseException) -> PruningRefused:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return PruningRefused(
        f"the model does not run with the pruned sizes ({line}); its forward has a size written into it: leave that "
        "role out with `ratios`"
    )


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers lie on the meta device; those that are one tensor stay one."""
    known: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            known[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        else:
            known[id(tensor)] = empty
    return copy.deepcopy(model, known)  # type: ignore[arg-type]

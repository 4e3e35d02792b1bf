"""Runs of the original, the masked reference and the pruned model in float64, with the same changes of routing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.agreement import Agreement, Outputs, agreement
from moeverify.checks.evidence.behaviour import Draws
from moeverify.checks.evidence.counters import Counters
from moeverify.checks.evidence.cut import cut_parts
from moeverify.checks.evidence.expert_numbers import Scalars, new_numbers, other_numbers
from moeverify.checks.evidence.forces import Change, in_sequence
from moeverify.checks.evidence.masking import mask_removed
from moeverify.checks.evidence.routing import Routing
from moeverify.checks.evidence.sight import Sight
from moeverify.checks.masked_conclusion import VISIBLE, Force, Seen, equal
from moeverify.checks.other_masks import others
from moeverify.checks.removed_experts import forbid, kept_experts, removed_numbers, route_as_pruned
from moeverify.checks.unrounded import unround_folds
from moeverify.models.forward import call_model
from moeverify.models.numerics import in_float64
from moeverify.models.outputs import float_outputs
from moeverify.models.roles import FoundRoles
from moeverify.models.state import copy_state, same_start


class DoesNotRun(Exception):
    """One of the models compared raises."""

    def __init__(self, model: nn.Module, name: str, error: Exception) -> None:
        super().__init__(f"{name} does not run: {left_by(error)}")
        self.model = model


class Runs:
    """The original, the masked reference and the pruned model in float64, all beginning in the original's state."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lengths = context.lengths  # before casts are lifted
        self.full, self.pruned = in_float64(context.original), in_float64(context.pruned)
        with torch.no_grad():  # all begin in the original's state, whatever forwards the subject ran
            copy_state(context.behaviour.changes, self.full, self.pruned)
        unround_folds(context, self.full, self.pruned)
        self.masked = copy.deepcopy(self.full)
        self.statistics = mask_removed(self.masked, context.kept, context.pruned)
        self.stayed = kept_experts(context)
        self.forbidden = forbid(self.masked, context.roles, self.stayed)
        self.counts = {(len(x.experts), len(self.stayed[x.name])) for x in context.roles.layers if self.forbidden}
        route_as_pruned(self.masked, context)
        parts = cut_parts(self.pruned, context.source_names, context.kept, context.roles, self.stayed)
        self.parts = parts
        self.sight = Sight(self.pruned, parts, VISIBLE)
        self.seen = Seen()
        changes = set(context.behaviour.changes)
        self.counters = Counters(part for part in parts if part.stop is None and part.label in changes)

    def _changes(self, force: Force | None, forbidden: Mapping[str, Change]) -> dict[str, Change]:
        changes = dict(forbidden)
        if force is not None:
            before = changes.get(force.layer)
            send = force.change(force.expert)
            changes[force.layer] = send if before is None else in_sequence(before, send)
        return changes

    def _pruned_routing(self, force: Force | None) -> Routing:
        context = self.context
        change = {} if force is None else {force.layer: force.change(self.stayed[force.layer].index(force.expert))}
        return Routing(self.pruned, context.pruned_roles, change, context.router_matrices)

    def _by_another_mask(
        self, inputs: Any, force: Force | None, got: Outputs, before: Outputs
    ) -> tuple[Agreement, Routing] | None:
        """The agreement with the original under another mask of the same experts, if there is one that agrees."""
        for logits, choices in others(removed_numbers(self.context.roles, self.stayed)):
            try:
                expected, routing, _ = self._masked(inputs, self._changes(force, logits), choices)
            except DoesNotRun:
                continue
            if equal(found := agreement(got, expected, before)):
                return found, routing
        return None

    def _by_numbers(self, inputs: Any, force: Force | None, got: Outputs, before: Outputs) -> str:
        """Reason why outputs differ if nothing but numbers that follow the number of experts do; empty if not."""
        if not self.forbidden:
            return ""
        changes = self._changes(force, self.forbidden)
        with Scalars() as theirs:
            self._masked(inputs, changes)
        with Scalars() as mine, same_start(self.pruned, self.context.seed), self._pruned_routing(force):
            call_model(self.pruned, inputs, use_cache=False)
        numbers = new_numbers(theirs, mine, self.counts)
        with Scalars(numbers):
            expected = self._masked(inputs, changes)[0]
        if not numbers or not equal(agreement(got, expected, before)):
            return ""
        return other_numbers(numbers)

    def _masked(
        self, inputs: Any, changes: Mapping[str, Change], choices: Mapping[str, Change] | None = None
    ) -> tuple[dict[str, torch.Tensor], Routing, Draws]:
        name = "the masked original, which the pruned model is compared with,"
        return self._run(self.masked, name, inputs, changes, self.context.roles, choices)

    def _run(
        self,
        model: nn.Module,
        name: str,
        inputs: Any,
        changes: Mapping[str, Change],
        roles: FoundRoles,
        choices: Mapping[str, Change] | None = None,
    ) -> tuple[dict[str, torch.Tensor], Routing, Draws]:
        routing = Routing(model, roles, changes, choices=choices)
        try:
            with same_start(model, self.context.seed), routing, Draws() as draws:
                outputs = float_outputs(call_model(model, inputs, use_cache=False))
                self.counters.read(model, model is self.pruned)
                return {n: tensor.clone() for n, tensor in outputs.items()}, routing, draws
        except Exception as error:
            raise DoesNotRun(model, name, error) from error

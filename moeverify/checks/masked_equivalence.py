"""``masked-equivalence``"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.agreement import OF_EACH_EXPERT, agreement, of_each_expert
from moeverify.checks.evidence.behaviour import Draws
from moeverify.checks.evidence.cut import agrees_with_router, cut_parts
from moeverify.checks.evidence.folding import folded_values
from moeverify.checks.evidence.forces import PARTS, Change
from moeverify.checks.evidence.kept import is_part, kept_part, tensors_of
from moeverify.checks.evidence.limits import Limits, other_capacity
from moeverify.checks.evidence.masking import mask_removed
from moeverify.checks.evidence.readers import Readers, agree, shown
from moeverify.checks.evidence.routing import Routing
from moeverify.checks.evidence.sight import Sight
from moeverify.checks.evidence.statistics import Statistics
from moeverify.checks.evidence.training import in_training
from moeverify.checks.masked_conclusion import TOLERANCE, VISIBLE, Force, Seen, conclude, difference
from moeverify.checks.registry import Finding, check, failed, inconclusive
from moeverify.checks.removed_experts import forbid, kept_experts, route_as_pruned
from moeverify.models.exercise import count_reached, run_all
from moeverify.models.forward import call_model
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.outputs import float_outputs
from moeverify.models.roles import FoundRoles
from moeverify.models.state import copy_state, same_start

# Scores of experts that are closer than two equal models may differ: the choice may fall either way.
NEAR_TIE = TOLERANCE
ATTEMPTS = 8
# Of the inputs drawn, so many must tell something.
ENOUGH = 2
# Tokens are sent by force to experts that no drawn input reaches, one input for each, in at most so many inputs.
FORCED = 64


class _DoesNotRun(Exception):
    """One of the models compared raises."""

    def __init__(self, model: nn.Module, name: str, error: Exception) -> None:
        super().__init__(f"{name} does not run: {left_by(error)}")
        self.model = model


@check("masked-equivalence")
def masked_equivalence(context: Context) -> Finding:
    """Proves that the pruned model computes what the original computes with the removed channels held at zero, and with
    removed experts never chosen.

    In float64, float32 casts inside the model lifted, relative error of every floating-point output below 1e-9. All
    models start from one state, with equal random numbers, and the original runs first. At most eight inputs are drawn.
    One is longer than any window and chunk, as far as the cost allows, and one is shorter. Then tokens are sent by
    force to experts that are still unseen, in all models alike. Inputs with a near-tie in the reference's choice of
    experts are drawn again, and must not be most of them. What was removed is recovered from the values alone. In other
    precisions than float64 the stored values are compared after conversion to float64, so rounding plays no part. A
    subject may claim that a weight took over a constant derived from a size. The stored weight must be that product,
    rounded once.

    Approval is earned: every tensor that was cut, and what each expert has of it, must have been seen to matter. A
    gradient shows it, or a perturbation that changes an output. The mask must change an output, too. What was not seen
    is listed, and makes the verdict inconclusive. Exception: a vector that no output can depend on, such as the bias of
    keys before a softmax. It counts if the operations that read it agree and depend on it, and what they give matters.
    What only a training forward uses, such as the noise of a router, is compared with its modules in training mode.

    Does not prove that the channels were a good choice. Norms average over the kept channels, also where they are
    written out in a larger module. If one cannot be restricted to them, a difference is inconclusive. A permutation
    that all tensors share changes no output and passes here; ``untouched-identical`` demands the order.
    """
    for name, before, after in context.pairs():
        if before.is_floating_point() and not is_part(after, before, name, context.kept):
            dims = {str(d): k.positions.tolist() for (n, d), k in context.kept.items() if n == name}
            return failed(
                f"{name} is not a part of the original: its values were altered, reordered or mixed",
                parameter=name,
                shape=tuple(after.shape),
                recovered=dims,
            )
    if context.behaviour.unsteady:
        return inconclusive(
            f"the original's {context.behaviour.unsteady} differs between two equal forwards, so nothing can be "
            "compared; see deterministic"
        )
    return _Comparison(context).finding()


class _Comparison:
    """The original, the masked reference and the pruned model in float64, side by side."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lengths = context.lengths  # before casts are lifted
        self.full, self.pruned = in_float64(context.original), in_float64(context.pruned)
        with torch.no_grad():  # all begin in the original's state, whatever forwards the subject ran
            copy_state(context.behaviour.changes, self.full, self.pruned)
        _unround_folds(context, self.full, self.pruned)
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

    def finding(self) -> Finding:
        with float64_throughout(), count_reached(self.masked, self.context.roles) as reached:
            for number, length, force in self._attempts():
                try:
                    inputs = self.context.draw(100 + number, float64=True, length=length)
                    problem = self._compare(inputs, force)
                except _DoesNotRun as error:
                    if error.model is self.pruned:
                        return failed(str(error), attempt=number)
                    return inconclusive(f"{error}; nothing can be compared", attempt=number)
                if problem is not None:
                    return problem
                self.seen.lengths += [length] * (len(self.seen.used) - len(self.seen.lengths))
            self._perturb()
            self._train()
        evidence = {**self._evidence(self.seen.error), "tokens": dict(reached)}
        traced = None if self.context.couplings is None else self.context.couplings.trace
        anything = bool(self.context.kept)
        return conclude(self.seen, self.parts, self.sight.unseen, evidence, traced, anything=anything)

    def _attempts(self) -> Iterator[tuple[int, int | None, Force | None]]:
        """Numbers of inputs, each with its length and the expert that tokens are sent to, if any.

        The example's length, which is ``None``, comes first, and again after each other length was used once.
        """
        lengths = (None, *self.lengths.all)
        for number in range(ATTEMPTS):
            left = [length for length in lengths if length not in self.seen.lengths]
            yield number, next(iter(left), None), None
            enough = len(self.seen.used) >= max(ENOUGH, len(lengths))
            if enough and not self.sight.unseen_experts():
                return
        number = ATTEMPTS
        for part in (None, *range(PARTS)):
            for layer in self.context.roles.layers:
                for expert, name in enumerate(layer.experts):
                    unseen = name in self.sight.unseen_experts() and expert in self.stayed[layer.name]
                    if unseen and number < ATTEMPTS + FORCED:
                        yield number, None, Force(layer.name, expert, name, part)
                        number += 1

    def _changes(self, force: Force | None, forbidden: Mapping[str, Change]) -> dict[str, Change]:
        changes = dict(forbidden)
        if force is not None:
            before = changes.get(force.layer)
            send = force.change(force.expert)
            changes[force.layer] = lambda logits: send(logits if before is None else before(logits))
        return changes

    def _pruned_routing(self, force: Force | None) -> Routing:
        context = self.context
        change = {} if force is None else {force.layer: force.change(self.stayed[force.layer].index(force.expert))}
        return Routing(self.pruned, context.pruned_roles, change, context.router_matrices)

    def _compare(self, inputs: Any, force: Force | None) -> Finding | None:
        roles, seed = self.context.roles, self.context.seed
        if force is not None:
            self.seen.forced.append(f"{force.layer}: expert {force.expert}")
        before = self._run(self.full, "the original in float64", inputs, self._changes(force, {}), roles)[0]
        experts = max((len(x.experts) for x in roles.layers), default=0)
        admitted, admits = Limits(experts), Limits(experts)
        with admitted:
            expected, other, theirs = self._run(
                self.masked,
                "the masked original, which the pruned model is compared with,",
                inputs,
                self._changes(force, self.forbidden),
                roles,
            )
        counted = list(self.statistics.counts)
        mine = self._pruned_routing(force)
        counts, draws = Statistics(), Draws()
        try:
            with self.sight.gradients() as take, same_start(self.pruned, seed), torch.enable_grad():
                with mine, counts, draws, admits:
                    got = float_outputs(call_model(self.pruned, inputs, use_cache=False))
                take(got, seed)
                got = {name: tensor.detach().clone() for name, tensor in got.items()}
        except Exception as error:
            raise _DoesNotRun(self.pruned, "the pruned model", error) from error
        found = agreement(got, expected, before)
        if found.wrong and (names := of_each_expert(got, expected, self.counts)):
            outputs = ({n: t for n, t in o.items() if n not in names} for o in (got, expected, before))
            found = agreement(*outputs)
            if not found.wrong and found.error < TOLERANCE:
                return inconclusive(f"{names[0]} {OF_EACH_EXPERT}", relative_error=found.error)
        if not found.wrong and found.error < TOLERANCE:
            if found.blind:
                return inconclusive(
                    f"{found.blind}, so nothing can be compared; give example inputs that it computes on"
                )
            self.seen.used.append((inputs, force))
            self.seen.error = max(self.seen.error, found.error)
            self.seen.effect = max(self.seen.effect, found.effect)
            return None
        # The reference's scores are the base's. A tie in the pruned model alone is its own doing.
        if not found.wrong and other.margin < NEAR_TIE:
            self.seen.near_ties += 1
            return None
        if reason := self._excuse(theirs, draws, counted, counts.counts, other, other_capacity(admitted, admits)):
            return inconclusive(f"{difference(found)}, but {reason}", relative_error=found.error)
        return failed(difference(found), output=found.worst, **self._evidence(found.error))

    def _run(
        self, model: nn.Module, name: str, inputs: Any, changes: Mapping[str, Change], roles: FoundRoles
    ) -> tuple[dict[str, torch.Tensor], Routing, Draws]:
        try:
            with same_start(model, self.context.seed), Routing(model, roles, changes) as routing, Draws() as draws:
                outputs = float_outputs(call_model(model, inputs, use_cache=False))
                return {n: tensor.clone() for n, tensor in outputs.items()}, routing, draws
        except Exception as error:
            raise _DoesNotRun(model, name, error) from error

    def _excuse(
        self, theirs: Draws, mine: Draws, counted: list[int], counts: list[int], other: Routing, capacity: str
    ) -> str:
        """Reason why a difference does not convict the pruned model; empty if it does."""
        if theirs.shapes != mine.shapes:
            at = next(iter(self.context.behaviour.draws), "one of its operations")
            return (
                f"the model draws random numbers in evaluation ({at}), and the pruned one draws other shapes: no seed "
                "makes them equal; give a model whose forward draws them in training alone (`if self.training:`)"
            )
        if len(counted) == len(counts) and counted != counts:
            return (
                "a mean, variance or norm that is written out over removed channels could not be cut down in the "
                "reference; put it into a module of its own with a weight for each channel"
            )
        unseen = [name for name in self.forbidden if name not in other.seen]
        if unseen:
            return f"the router of {unseen[0]} could not be kept from removed experts; name it with --routers-pattern"
        return capacity if self.forbidden else ""

    def _perturb(self) -> None:
        """Perturb parameters that have no gradient, on the inputs used before; those that change an output count as
        seen.
        """

        def forward(inputs: Any, force: Force | None) -> dict[str, torch.Tensor]:
            with self._pruned_routing(force):
                return run_all(self.pruned, inputs)

        for inputs, force in self.seen.used:
            parts = [p for p in self.sight.unseen if force is None or p.expert == force.name]
            self.sight.perturb(lambda i=inputs, f=force: forward(i, f), parts)  # type: ignore[misc]  # defaults hide the types of i and f
        self._compare_readers()
        seen = {part.label for part in self.parts} - {part.label for part in self.sight.unseen}
        for part in list(self.sight.unseen):
            if agrees_with_router(part, seen, self.context.kept, self.context.original, self.context.roles):
                del self.sight.unseen[part]

    def _train(self) -> None:
        """Compare modules that only a training forward uses, on the inputs drawn so far.

        A difference there is no failure: in training, numbers that follow a size may enter the computation.
        """
        seen, sight = self.seen, self.sight
        labels = [part.label for part in sight.unseen]
        inputs = [given for given, force in seen.used if force is None] if labels else []
        if not inputs:
            return
        before = (seen.error, seen.effect, seen.near_ties), list(seen.used), dict(sight.unseen)
        with (
            in_training(self.full, labels),
            in_training(self.masked, labels),
            in_training(self.pruned, [part.tensor for part in sight.unseen]),
        ):
            for number, given in enumerate(inputs, 1):
                try:
                    alike = self._compare(given, None) is None and len(seen.used) == len(before[1]) + number
                except _DoesNotRun:
                    alike = False
                if not alike:
                    sight.unseen = before[2]
                    break
        (seen.error, seen.effect, seen.near_ties), seen.used = before[0], before[1]
        seen.trained = [label for label in labels if label not in {part.label for part in sight.unseen}]

    def _tokens(self, length: int | None) -> int | None:
        """Tokens of an input; ``None`` where the example has no sequence."""
        sequence = self.context.drawer.sequence
        return length if length is not None or sequence is None else sequence.length

    def _compare_readers(self) -> None:
        """Approve vectors that no output can depend on, if the operations that read them agree on every input used."""
        mine = tensors_of(self.pruned)
        parts = [p for p in self.sight.unseen if p.stop is None and mine[p.tensor].dim() == 1]
        agreed, seen = {part.label for part in parts}, set[str]()
        for inputs, force in self.seen.used if parts else ():
            theirs = Readers(tensors_of(self.masked), agreed)
            ours = Readers({self.context.source_names.get(n, n): t for n, t in mine.items()}, agreed)
            with theirs:
                changes = self._changes(force, self.forbidden)
                self._run(self.masked, "the masked original", inputs, changes, self.context.roles)
            routing = self._pruned_routing(force)
            with self.sight.gradients() as take, same_start(self.pruned, self.context.seed), torch.enable_grad():
                with ours, routing:
                    got = float_outputs(call_model(self.pruned, inputs, use_cache=False))
                take(got, self.context.seed)
            agreed = {n for n in agreed if agree(n, ours.readings[n], theirs.readings[n], self.context.kept, TOLERANCE)}
            seen |= {name for name in agreed if shown(ours.readings[name], VISIBLE)}
        for part in parts:
            if part.label in agreed & seen:
                self.sight.unseen.pop(part, None)

    def _evidence(self, error: float) -> dict[str, Any]:
        return {
            "relative_error": error,
            "tolerance": TOLERANCE,
            "effect_of_mask": self.seen.effect,
            "inputs": len(self.seen.used),
            "tokens_per_input": [self._tokens(length) for length in self.seen.lengths],
            "windows_beyond_inputs": list(self.lengths.beyond),
            "near_ties": self.seen.near_ties,
            "forced": self.seen.forced,
            "in_training": self.seen.trained,
            "notes": list(self.context.behaviour.notes()),
        }


@torch.no_grad()
def _unround_folds(context: Context, full: nn.Module, pruned: nn.Module) -> None:
    """Give weights that took over a constant the value they have before rounding; that the stored one is its rounding
    has been seen by then. The fold itself is judged: it must make up for the constant exactly.
    """
    before, after = tensors_of(full), tensors_of(pruned)
    for name, fold in {fold.parameter: fold for fold in context.folds}.items():
        exact = kept_part(folded_values(fold, before[name]), name, context.kept)
        assert exact is not None
        for mine, source in ((n, context.source_names.get(n, n)) for n in after):
            if source == name:
                after[mine].copy_(exact)

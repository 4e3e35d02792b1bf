"""The original, the masked reference and the pruned model side by side: what ``masked-equivalence`` compares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from moeverify.checks.evidence.agreement import agreement
from moeverify.checks.evidence.behaviour import Draws
from moeverify.checks.evidence.cut import agrees_with_router
from moeverify.checks.evidence.forces import PARTS, in_sequence, towards
from moeverify.checks.evidence.kept import tensors_of
from moeverify.checks.evidence.limits import Limits, other_capacity
from moeverify.checks.evidence.readers import Readers, agree, shown
from moeverify.checks.evidence.routing import Routing
from moeverify.checks.evidence.statistics import Statistics
from moeverify.checks.evidence.training import in_training
from moeverify.checks.masked_conclusion import TOLERANCE, VISIBLE, Force, conclude, difference, equal
from moeverify.checks.masked_runs import DoesNotRun, Runs
from moeverify.checks.registry import Finding, failed, inconclusive
from moeverify.checks.removed_experts import removed_numbers, set_apart
from moeverify.models.exercise import count_reached, run_all
from moeverify.models.forward import call_model
from moeverify.models.numerics import float64_throughout
from moeverify.models.outputs import float_outputs
from moeverify.models.state import same_start

# Scores of experts that are closer than two equal models may differ: the choice may fall either way.
NEAR_TIE = TOLERANCE
ATTEMPTS = 8
# Of the inputs drawn, so many must tell something.
ENOUGH = 2
# Tokens are sent by force to experts that no drawn input reaches, one input for each, in at most so many inputs.
FORCED = 64


_NOT_FINITE = (
    "scores of removed experts are minus infinity in it, which its forward puts into something else than a choice or a "
    "softmax; give a model that does not"
)


class Comparison(Runs):
    """The original, the masked reference and the pruned model in float64, side by side."""

    def finding(self) -> Finding:
        """The finding after all inputs."""
        with float64_throughout(), count_reached(self.masked, self.context.roles) as reached:
            for number, length, force in self._attempts():
                try:
                    inputs = self.context.draw(100 + number, float64=True, length=length)
                    problem = self._compare(inputs, force)
                except DoesNotRun as error:
                    if error.model is self.pruned:
                        return failed(str(error), attempt=number)
                    return inconclusive(f"{error}; nothing can be compared", attempt=number)
                if problem is not None:
                    return problem
                self.seen.lengths += [length] * (len(self.seen.used) - len(self.seen.lengths))
            self._send_to_removed()
            self._perturb()
            self._train()
            self._agree()
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
            # A removed expert that few tokens chose is missed on some input only.
            matters = self.seen.effect >= VISIBLE or not self.forbidden
            enough = matters and len(self.seen.used) >= max(ENOUGH, len(lengths))
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

    def _compare(self, inputs: Any, force: Force | None) -> Finding | None:
        roles, seed = self.context.roles, self.context.seed
        if force is not None:
            self.seen.forced.append(f"{force.layer}: expert {force.expert}")
        before = self._run(self.full, "the original in float64", inputs, self._changes(force, {}), roles)[0]
        experts = max((len(x.experts) for x in roles.layers), default=0)
        admitted, admits = Limits(experts), Limits(experts)
        with admitted:
            expected, other, theirs = self._masked(inputs, self._changes(force, self.forbidden))
        counted = list(self.statistics.counts)
        mine = self._pruned_routing(force)
        counts, draws = Statistics(), Draws()
        try:
            with self.sight.gradients() as take, same_start(self.pruned, seed), torch.enable_grad():
                with mine, counts, draws, admits:
                    got = float_outputs(call_model(self.pruned, inputs, use_cache=False))
                self.counters.read(self.pruned, pruned=True)
                take(got, seed)
                got = {name: tensor.detach().clone() for name, tensor in got.items()}
        except Exception as error:
            raise DoesNotRun(self.pruned, "the pruned model", error) from error
        found = agreement(got, expected, before)
        if self.forbidden and not equal(found):
            found, other = self._by_another_mask(inputs, force, got, before) or (found, other)
        if equal(found):
            self.counters.compare(self.context.kept, TOLERANCE)
            self.seen.used.append((inputs, force))
            self.seen.error = max(self.seen.error, found.error)
            self.seen.effect = max(self.seen.effect, found.effect)
            return None
        if not found.wrong and found.error < TOLERANCE:
            remedy = _NOT_FINITE if self.forbidden else "give example inputs that it computes on"
            return inconclusive(f"{found.blind}, so nothing can be compared; {remedy}")
        outputs = (got, expected, before)
        if self.forbidden and (finding := set_apart(outputs, self.counts, len(roles.layers))) is not None:
            return finding
        # The reference's scores are the base's. A tie in the pruned model alone is its own doing.
        if not found.wrong and other.margin < NEAR_TIE:
            self.seen.near_ties += 1
            return None
        capacity = other_capacity(admitted, admits) or self._by_numbers(inputs, force, got, before)
        if reason := self._excuse(theirs, draws, counted, counts.counts, other, capacity):
            return inconclusive(f"{difference(found)}, but {reason}", relative_error=found.error)
        return failed(difference(found), output=found.worst, **self._evidence(found.error))

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

    def _send_to_removed(self) -> None:
        """Send tokens to removed experts that no input reached: the mask matters if it changes what they give."""
        inputs = next((given for given, force in self.seen.used if force is None), None)
        for layer, gone in removed_numbers(self.context.roles, self.stayed).items() if inputs is not None else ():
            if self.seen.effect >= VISIBLE:
                return
            send, never = towards(gone[0]), self.forbidden[layer]
            with contextlib.suppress(DoesNotRun):
                plain = self._run(self.full, "the original", inputs, {layer: send}, self.context.roles)[0]
                changes = {**self.forbidden, layer: in_sequence(send, never)}
                masked = self._masked(inputs, changes)[0]
                self.seen.effect = max(self.seen.effect, agreement(masked, masked, plain).effect)

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

    def _agree(self) -> None:
        """Approve what forwards counted alike, and companions of routers with the same experts as a seen matrix."""
        seen = {part.label for part in self.parts} - {part.label for part in self.sight.unseen}
        context = self.context
        trained = frozenset() if context.couplings is None else context.couplings.trace.in_training
        for part in self.counters.agreed:
            self.sight.unseen.pop(part, None)
        for part in list(self.sight.unseen):
            models = (context.original, context.pruned)
            if agrees_with_router(part, seen, context.kept, models, context.roles, trained):
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
                except DoesNotRun:
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

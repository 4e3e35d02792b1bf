"""``forward-every-expert``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from moeverify.base.foreign import left_by
from moeverify.checks.context import Context
from moeverify.checks.evidence.cut import stack_parts
from moeverify.checks.evidence.forces import Change, evenly, towards
from moeverify.checks.evidence.routing import Routing
from moeverify.checks.evidence.sight import Part, Sight
from moeverify.checks.registry import Finding, check, failed, inconclusive, passed
from moeverify.checks.unrecognised import without_layers
from moeverify.models.exercise import count_reached, run_all
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs
from moeverify.models.roles import FoundRoles
from moeverify.models.state import same_start

ATTEMPTS = 8
# Experts that an input is spent on alone, at most.
FORCED = 256
# An output that changes by less than this share of its largest value says nothing of an expert.
VISIBLE = 1e-5


@check("forward-every-expert")
def forward_every_expert(context: Context) -> Finding:
    """Proves that each routed expert of the pruned model computes on tokens routed to it, with finite results.

    Draws eight inputs, or fewer if all experts were reached before. Tokens are then forced to experts that are still
    unreached. Up to eight inputs go to the layer's experts in turn, then one input to each expert left. An expert
    counts as reached if tokens were counted on their way to it, or if an output depends on its weights. An expert that
    is still not reached makes the verdict inconclusive: the cause may be a capacity, or a router that cannot be forced.
    What the original does as well, on the same inputs, is no fault of the pruned model.
    """
    if not context.roles.layers:
        return without_layers(context.roles, explained_by="expert-isolation")
    return _Exercise(context).finding()


@dataclass
class _Exercise:
    context: Context
    tokens: dict[str, int] = field(default_factory=dict)
    by_effect: set[str] = field(default_factory=set)
    # Layers whose router was seen to take the changes of its scores.
    steered: set[str] = field(default_factory=set)
    number: int = 0

    @property
    def missing(self) -> list[str]:
        """Experts that no token was counted at and no output depends on."""
        return [name for name, count in self.tokens.items() if not count and name not in self.by_effect]

    def finding(self) -> Finding:
        """Send inputs until every expert was reached."""
        roles = self.context.pruned_roles
        forced: list[str] = []
        with count_reached(self.context.pruned, roles) as self.tokens:
            for prefix, force in self._forces(roles, forced):
                if (problem := self._forward(prefix, force)) is not None:
                    return problem
        evidence = {"tokens": dict(self.tokens), "forced": forced, "by_effect": sorted(self.by_effect)}
        if missing := self.missing:
            return inconclusive(
                f"no token reached {missing[0]} in {self.number} inputs, and no output depends on its weights; "
                f"{self._remedy(missing[0])}",
                unreached=missing,
                **evidence,
            )
        counted = {name: count for name, count in self.tokens.items() if count}
        if not counted:
            return passed(f"{len(self.tokens)} experts ran: outputs depend on the weights of each", **evidence)
        least = min(counted, key=lambda name: counted[name])
        return passed(f"{len(self.tokens)} experts ran; fewest tokens: {counted[least]} at {least}", **evidence)

    def _remedy(self, expert: str) -> str:
        """What would show an expert that no token reached."""
        layer = next(x.name for x in self.context.pruned_roles.layers if expert in x.experts)
        if layer in self.steered:
            return (
                f"the scores of its router were raised for it, and the forward of {layer} ran others: see how it "
                "reads what its router gives, and whether its capacity leaves room"
            )
        return "give example inputs that its router sends to it, or name the router with --routers-pattern"

    def _forces(self, roles: FoundRoles, forced: list[str]) -> Iterator[tuple[str, dict[str, Change]]]:
        for _ in range(ATTEMPTS):
            yield "", {}
            if not self.missing:
                return
        forced += self.missing
        turns = {layer.name: evenly() for layer in roles.layers if set(layer.experts) & set(self.missing)}
        for _ in range(ATTEMPTS):
            yield "tokens sent to experts in turn: ", dict(turns)
            if not self.missing:
                return
        alone = 0
        for layer in roles.layers:
            for expert, name in enumerate(layer.experts):
                if name in self.missing and alone < FORCED:
                    yield f"tokens sent to {name}: ", {layer.name: towards(expert)}
                    alone += 1

    def _forward(self, prefix: str, force: Mapping[str, Change]) -> Finding | None:
        """Run the pruned model once on new inputs; return a finding if it fails, else ``None``.

        ``force`` changes router logits by layer. ``prefix`` begins the message. Inconclusive if the original fails as
        well.
        """
        context = self.context
        inputs = context.draw(1 + self.number)
        self.number += 1
        routing = Routing(context.pruned, context.pruned_roles, force, context.router_matrices)
        wrong = _wrong(routing, inputs)
        self.steered |= (routing.seen | routing.chosen) & set(force)
        if not wrong:
            if self.missing:
                self.by_effect |= self._depended_on(inputs, force)
            return None
        evidence = {"attempt": self.number - 1, "tokens": dict(self.tokens)}
        # Sent to another number of experts, the original's tokens go elsewhere: by itself it must run all the same.
        if original := _wrong(Routing(context.original, context.roles), inputs):
            return inconclusive(
                f"on drawn inputs the original itself {original}; give example inputs of its form", **evidence
            )
        return failed(f"{prefix}the pruned model {wrong}", **evidence)

    def _depended_on(self, inputs: Any, force: Mapping[str, Change]) -> set[str]:
        """Experts that were not counted and whose weights some output depends on."""
        context, missing = self.context, set(self.missing)
        parts = [p for p in _expert_parts(context) if p.expert in missing]
        sight = Sight(context.pruned, parts, VISIBLE)
        try:
            with sight.gradients() as take, same_start(context.pruned), torch.enable_grad():
                with Routing(context.pruned, context.pruned_roles, force, context.router_matrices):
                    outputs = float_outputs(call_model(context.pruned, inputs, use_cache=False))
                take(outputs, context.seed)
        except Exception:
            return set()  # kernels without a derivative: nothing is known by gradient
        return {p.expert for p in parts if p not in sight.unseen and p.expert is not None}


def _expert_parts(context: Context) -> list[Part]:
    """Every parameter of every routed expert of the pruned model."""
    parts: list[Part] = []
    for layer in context.pruned_roles.layers:
        for name, parameter in context.pruned.named_parameters():
            if layer.stacks:
                size = parameter.shape[layer.axis(name)] if name in layer.stacks else 0
                if size and size % len(layer.experts) == 0:
                    parts += stack_parts(name, name, size, layer, range(len(layer.experts)))
                continue
            if (expert := layer.owner(name)) is not None:
                parts.append(Part(name, name, layer.experts[expert]))
    return parts


def _wrong(routing: Routing, inputs: Any) -> str:
    """Fault of one forward; empty if there is none."""
    try:
        with routing:
            outputs = run_all(routing.model, inputs)
    except Exception as error:
        return f"does not run: {left_by(error)}"
    endless = [name for name, tensor in outputs.items() if not bool(tensor.isfinite().all())]
    return f"gives NaN or infinity in {endless[0]}" if endless else ""

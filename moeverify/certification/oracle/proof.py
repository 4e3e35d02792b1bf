"""The numeric proof: the pruned model against the masked base on the same tokens, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from moeverify.certification.evidence import Evidence
from moeverify.certification.oracle.reference import leave_out_layers, mask
from moeverify.certification.oracle.running import load_model, vocabulary
from moeverify.checks.evidence.routing import Change, Routing, towards
from moeverify.models.exercise import count_reached, run
from moeverify.models.numerics import float64_throughout
from moeverify.models.roles import find_roles

TOLERANCE = 1e-9
# A choice of experts closer than this may fall either way by rounding alone; such an input proves nothing.
NEAR_TIE = 1e-10
DRAWN, ENOUGH, FORCED = 8, 2, 64
_SHAPE = (2, 32)


@dataclass
class Proof:
    """Relative error, effect of the mask, inputs compared, near-ties left out, experts that no token reached.

    ``unseen`` are MoE layers whose router could not be told which experts are gone: the reference is none then.
    """

    error: float = 0.0
    effect: float = 0.0
    inputs: int = 0
    near_ties: int = 0
    unreached: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def prove(evidence: Evidence, tolerance: float = TOLERANCE) -> Proof:
    """Compare outputs on drawn tokens, then on tokens sent by force to experts that none of them reached.

    An input that differs by more than ``tolerance`` where the reference's choice is a near-tie is left out.
    """
    device = evidence.options.device
    full = load_model(evidence.base_folder, device)
    pruned = load_model(evidence.pruned_folder, device)
    masked = copy.deepcopy(full)
    keep, roles = evidence.keep, evidence.structure.roles
    proof = Proof()
    with float64_throughout(), torch.no_grad(), ExitStack() as stack:
        changes = mask(masked, keep, pruned)
        reached = stack.enter_context(count_reached(masked, roles))
        reference = Routing(masked, roles, {})
        leave_out_layers(masked, keep)
        theirs = Routing(pruned, find_roles(pruned), {})
        wanted = _experts(evidence)
        for number, force in _attempts(wanted, reached, proof):
            reference.change = _with_force(changes, force)
            theirs.change = {} if force is None else {force.pruned_layer: towards(force.after)}
            tokens = _tokens(full, evidence.options.seed + number).to(device)
            _compare(proof, tolerance, full, (masked, reference), (pruned, theirs), {"input_ids": tokens})
        proof.unseen = sorted(set(changes) - reference.seen - reference.chosen)
        proof.unreached = [name for name, target in wanted.items() if not reached[name]]
    return proof


@dataclass(frozen=True)
class _Target:
    """An expert that stayed: its layer and number before and after."""

    layer: str
    before: int
    pruned_layer: str
    after: int


def _experts(evidence: Evidence) -> dict[str, _Target]:
    targets = {}
    for number, experts in evidence.keep.experts.items():
        layer = evidence.structure.roles.layers[number]
        name = evidence.keep.to_pruned(layer.name)
        for after, before in enumerate(experts.tolist()):
            if name is not None and before >= 0:
                targets[layer.experts[before]] = _Target(layer.name, before, name, after)
    return targets


def _attempts(
    wanted: Mapping[str, _Target], reached: Mapping[str, int], proof: Proof
) -> Iterator[tuple[int, _Target | None]]:
    for number in range(DRAWN):
        yield number, None
        if proof.inputs >= ENOUGH and all(reached[name] for name in wanted):
            return
    number = DRAWN
    for name, target in wanted.items():
        if not reached[name] and number < DRAWN + FORCED:
            yield number, target
            number += 1


def _with_force(changes: Mapping[str, Change], force: _Target | None) -> dict[str, Change]:
    result = dict(changes)
    if force is not None:
        before = result.get(force.layer)
        chosen = towards(force.before)
        result[force.layer] = lambda logits: chosen(logits if before is None else before(logits))
    return result


def _tokens(model: nn.Module, seed: int) -> torch.Tensor:
    return torch.randint(0, vocabulary(model), _SHAPE, generator=torch.Generator().manual_seed(seed))


def _compare(
    proof: Proof,
    tolerance: float,
    full: nn.Module,
    reference: tuple[nn.Module, Routing],
    pruned: tuple[nn.Module, Routing],
    inputs: Mapping[str, torch.Tensor],
) -> None:
    outputs = []
    for model, routing in (reference, pruned):
        routing.margin = float("inf")
        with routing:
            outputs.append(run(model, inputs))
    expected, got = outputs
    scale = expected.abs().max()
    if expected.shape != got.shape or not bool(got.isfinite().all()):
        proof.error = float("inf")
        proof.inputs += 1
        return
    error = float((got - expected).abs().max() / scale)
    # The reference's scores are the base's. A tie in the pruned model alone is its own doing.
    if error >= tolerance and reference[1].margin < NEAR_TIE:
        proof.near_ties += 1
        return
    before = run(full, inputs)
    proof.inputs += 1
    proof.error = max(proof.error, error)
    proof.effect = max(proof.effect, float((before - expected).abs().max() / before.abs().max()))

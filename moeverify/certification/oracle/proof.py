"""The numeric proof: the pruned model against the masked base on the same tokens, in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.oracle.running import vocabulary
from moeverify.certification.oracle.sides import make_sides
from moeverify.certification.oracle.streamed import STREAMED_VALUES
from moeverify.certification.oracle.vocabulary import Vocabulary
from moeverify.checks.evidence.agreement import agreement
from moeverify.checks.evidence.forces import Change, in_sequence, towards, towards_each
from moeverify.checks.evidence.routing import Routing, router_matrices
from moeverify.models.device import input_device
from moeverify.models.exercise import count_reached, run_all
from moeverify.models.numerics import float64_throughout
from moeverify.models.outputs import main_output

TOLERANCE = 1e-9
# A choice of experts closer than this may fall either way by rounding alone; such an input proves nothing.
NEAR_TIE = 1e-10
DRAWN, ENOUGH, IN_TURN, FORCED = 8, 2, 8, 64
_SHAPE = (2, 32)


@dataclass
class Proof:
    """Relative error, effect of the mask, inputs compared, near-ties left out, experts that no token reached.

    ``output`` differs most. ``wrong``: why outputs cannot be compared, e.g. other names or shapes. ``unseen``: MoE
    layers whose router could not be restricted to the kept experts, so that there is no reference. ``sample``: the
    layers that ran, if not all did.
    """

    error: float = 0.0
    output: str = ""
    wrong: str = ""
    effect: float = 0.0
    inputs: int = 0
    near_ties: int = 0
    unreached: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    sample: str = ""
    tolerance: float = TOLERANCE


def prove(evidence: Evidence, tolerance: float = TOLERANCE, *, at_least: int = STREAMED_VALUES) -> Proof:
    """Compare outputs on drawn tokens, then on tokens sent by force to experts that none of them reached.

    An input that differs by more than ``tolerance`` where the reference's choice is a near-tie is left out. Weights of
    large models with ``at_least`` values are read from disk when they are used.
    """
    sides = make_sides(evidence, at_least=at_least)
    words = Vocabulary.of(evidence.keep.tokens)
    partial = "" if sides.sample is None or sides.sample.whole else str(sides.sample)
    proof = Proof(sample=partial, tolerance=tolerance)
    with float64_throughout(), torch.no_grad(), ExitStack() as stack:
        stack.enter_context(sides.stream)
        reached = stack.enter_context(count_reached(sides.masked, sides.roles))
        reference = Routing(sides.masked, sides.roles, {})
        theirs = Routing(
            sides.pruned, sides.pruned_roles, {}, _matrices_now(evidence, router_matrices(sides.full, sides.roles))
        )
        wanted = {name: target for name, target in _experts(evidence).items() if sides.runs(target.pruned_layer)}
        for number, forced in _attempts(wanted, reached, proof):
            reference.change = _with_force(sides.changes, {t.layer: c for t, c in forced.before})
            theirs.change = {t.pruned_layer: c for t, c in forced.after}
            tokens = _tokens(sides.full, evidence.options.seed + number, words)
            tokens = [ids.to(input_device(sides.full)) for ids in tokens]
            _compare(proof, tolerance, sides.full, (sides.masked, reference), (sides.pruned, theirs), tokens, words)
        proof.unseen = sorted(set(sides.changes) - reference.seen - reference.chosen)
        proof.unreached = [name for name in wanted if not reached[name]]
    return proof


@dataclass(frozen=True)
class _Target:
    """An expert that stayed: its layer and number before and after."""

    layer: str
    before: int
    pruned_layer: str
    after: int


@dataclass(frozen=True)
class _Forced:
    """Changes of router logits that send tokens to experts: in the base's numbers, and in the pruned folder's."""

    before: tuple[tuple[_Target, Change], ...] = ()
    after: tuple[tuple[_Target, Change], ...] = ()


def _matrices_now(evidence: Evidence, matrices: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The router matrices of each layer by the pruned folder's names."""
    now = {}
    for layer, names in matrices.items():
        there, mine = evidence.keep.to_pruned(layer), [evidence.keep.to_pruned(name) for name in names]
        if there is not None and (kept := tuple(name for name in mine if name is not None)):
            now[there] = kept
    return now


def _experts(evidence: Evidence) -> dict[str, _Target]:
    targets = {}
    for number, experts in evidence.keep.experts.items():
        layer = evidence.structure.roles.layers[number]
        name = evidence.keep.to_pruned(layer.name)
        for after, before in enumerate(experts.tolist()):
            if name is not None and before >= 0:
                targets[layer.experts[before]] = _Target(layer.name, before, name, after)
    return targets


def _attempts(wanted: Mapping[str, _Target], reached: Mapping[str, int], proof: Proof) -> Iterator[tuple[int, _Forced]]:
    """Drawn tokens; then tokens that are sent to all unreached experts of each layer in turn; then to one expert."""
    for number in range(DRAWN):
        yield number, _Forced()
        if proof.inputs >= ENOUGH and all(reached[name] for name in wanted):
            return
    number = DRAWN
    for _ in range(IN_TURN):
        layers: dict[str, list[_Target]] = defaultdict(list)
        for name, target in wanted.items():
            if not reached[name]:
                layers[target.layer].append(target)
        if not layers:
            return
        yield (
            number,
            _Forced(
                tuple((targets[0], towards_each([t.before for t in targets])) for targets in layers.values()),
                tuple((targets[0], towards_each([t.after for t in targets])) for targets in layers.values()),
            ),
        )
        number += 1
    for name, target in wanted.items():
        if not reached[name] and number < DRAWN + IN_TURN + FORCED:
            yield number, _Forced(((target, towards(target.before)),), ((target, towards(target.after)),))
            number += 1


def _with_force(changes: Mapping[str, Change], forced: Mapping[str, Change]) -> dict[str, Change]:
    result = dict(changes)
    for layer, force in forced.items():
        before = result.get(layer)
        result[layer] = force if before is None else in_sequence(before, force)
    return result


def _tokens(model: nn.Module, seed: int, words: Vocabulary | None) -> list[torch.Tensor]:
    """Tokens in the numbers of the base and of the pruned folder."""
    count = vocabulary(model) if words is None else len(words.before)
    drawn = torch.randint(0, count, _SHAPE, generator=torch.Generator().manual_seed(seed))
    return [drawn, drawn] if words is None else [words.before[drawn], words.after[drawn]]


def _compare(
    proof: Proof,
    tolerance: float,
    full: nn.Module,
    reference: tuple[nn.Module, Routing],
    pruned: tuple[nn.Module, Routing],
    tokens: Sequence[torch.Tensor],
    words: Vocabulary | None,
) -> None:
    inputs = {"input_ids": tokens[0]}
    before = run_all(full, inputs) if not proof.effect or not proof.inputs else None
    outputs = []
    for (model, routing), ids in zip((reference, pruned), tokens, strict=True):
        routing.margin = float("inf")
        with routing:
            outputs.append(run_all(model, {"input_ids": ids}))
    expected, got = outputs
    if before is None and not all(bool(tensor.isfinite().all()) for tensor in expected.values()):
        before = run_all(full, inputs)
    if words is not None:
        before = None if before is None else words.common(before, got)[0]
        expected, got = words.common(expected, got)
    distance = agreement(got, expected, expected if before is None else before)
    main = main_output(expected)
    # An output beside the main one may be a selection: scores of fewer experts.
    wrong = distance.wrong or ("" if got[main].shape == expected[main].shape else f"{main} has another shape")
    if wrong:
        proof.error, proof.output, proof.wrong = float("inf"), main, wrong
        proof.inputs += 1
        return
    # The reference's scores are the base's. A tie in the pruned model alone is its own doing.
    if distance.error >= tolerance and reference[1].margin < NEAR_TIE:
        proof.near_ties += 1
        return
    if distance.blind:
        raise NotVisible(f"{distance.blind}, so that nothing can be compared")
    proof.inputs += 1
    if distance.error > proof.error or not proof.output:
        proof.error, proof.output = distance.error, distance.worst
    proof.effect = max(proof.effect, distance.effect)

"""``masked-equivalence``"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.kept import is_part, kept_part, tensors_of
from moeverify.checks.evidence.masking import mask_removed
from moeverify.checks.evidence.routing import Change, Routing, towards
from moeverify.checks.registry import Finding, check, failed, passed
from moeverify.checks.removed_experts import forbid, kept_experts
from moeverify.models.exercise import count_reached, run, vary_inputs
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.verdict import Status

TOLERANCE = 1e-9
# A choice of experts closer than this may fall either way by rounding alone; such an input proves nothing.
NEAR_TIE = 1e-10
ATTEMPTS = 8
# Of the inputs drawn, so many must tell something.
ENOUGH = 2
# Tokens are sent by force to experts that no drawn input reaches, one input for each, in at most so many inputs.
FORCED = 64


@dataclass
class _Comparison:
    """What was seen over all inputs."""

    worst: float = 0.0
    effect: float = 0.0
    inputs: int = 0
    near_ties: int = 0
    forced: list[str] = field(default_factory=list)


class _DoesNotRun(Exception):
    """One of the models compared raises."""

    def __init__(self, model: nn.Module, name: str, error: Exception) -> None:
        super().__init__(f"{name} does not run: {type(error).__name__}: {error}")
        self.model = model


@check("masked-equivalence")
def masked_equivalence(context: Context) -> Finding:
    """Proves that the pruned model computes what the original computes with the removed channels held at zero, and
    with removed experts never chosen.

    In float64, float32 casts inside the model lifted, relative error of the output below 1e-9, on inputs that
    together reach every routed expert: eight are drawn, then tokens are sent by force to experts that are still
    unreached, in both models alike. Inputs with a near-tie in the choice of experts are drawn again. What was removed
    is recovered from the values alone. Guarded against vacuity: the mask must change the output, and the output must
    not be zero. In other precisions than float64 the stored values are compared after conversion to float64, so
    rounding plays no part. Where the subject says that a weight took over a constant derived from a size, the stored
    weight must be that product, rounded once. A permutation that all tensors share changes no output and passes here;
    ``untouched-identical`` demands the order.

    Does not say whether the channels were a good choice. Norms must be modules of their own: one that is written out
    in the forward of a larger module averages over the removed channels, too, and fails.
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
    full, pruned = in_float64(context.original), in_float64(context.pruned)
    _unround_folds(context, full, pruned)
    masked = copy.deepcopy(full)
    mask_removed(masked, context.kept, context.pruned)
    stayed = kept_experts(context)
    forbidden = forbid(masked, context.roles, stayed)
    seen = _Comparison()
    with float64_throughout(), count_reached(masked, context.roles) as reached:
        names = [e for layer in context.roles.layers for n, e in enumerate(layer.experts) if n in stayed[layer.name]]
        for number, force in _attempts(context, names, reached, seen):
            inputs = vary_inputs(full, context.example_inputs, context.seed + 100 + number, torch.float64)
            try:
                problem = _compare(context, (full, masked, pruned), inputs, forbidden, force, stayed, seen)
            except _DoesNotRun as error:
                status = Status.FAIL if error.model is pruned else Status.ERROR  # a reference says nothing of the other
                return Finding(status, str(error), {"attempt": number})
            if problem is not None:
                return problem
        missing = [name for name in names if not reached[name]]
    evidence = {
        "relative_error": seen.worst,
        "tolerance": TOLERANCE,
        "effect_of_mask": seen.effect,
        "inputs": seen.inputs,
        "near_ties": seen.near_ties,
        "tokens": dict(reached),
        "forced": seen.forced,
    }
    if seen.worst >= TOLERANCE or seen.worst != seen.worst:
        return failed(f"differs from the masked original by {seen.worst:.1e} (allowed {TOLERANCE:.0e})", **evidence)
    if not seen.inputs:
        return failed("every input drawn has a near-tie in the choice of experts, so nothing was shown", **evidence)
    if seen.effect < 1e3 * TOLERANCE:
        return failed("the removed channels did not matter for the output, so nothing was shown", **evidence)
    if missing:
        return failed(f"equal, but no token reached {missing[0]}, so nothing is known of it", **evidence)
    return passed(
        f"equals the masked original to {seen.worst:.1e}; the mask itself changes it by {seen.effect:.1e}", **evidence
    )


@torch.no_grad()
def _unround_folds(context: Context, full: nn.Module, pruned: nn.Module) -> None:
    """Give weights that took over a constant the value they have before rounding; that the stored one is its rounding
    has been seen by then. The fold itself is judged: it must make up for the constant exactly."""
    before, after = tensors_of(full), tensors_of(pruned)
    for name, fold in {fold.parameter: fold for fold in context.folds}.items():
        exact = kept_part(fold.of(before[name]), name, context.kept)
        assert exact is not None
        for mine, source in ((n, context.source_names.get(n, n)) for n in after):
            if source == name:
                after[mine].copy_(exact)


def _attempts(
    context: Context, names: list[str], reached: Mapping[str, int], seen: _Comparison
) -> Iterator[tuple[int, tuple[str, int] | None]]:
    """Numbers of inputs, each with the layer and expert that tokens are sent to, if any."""
    for number in range(ATTEMPTS):
        yield number, None
        if seen.inputs >= ENOUGH and all(reached[n] for n in names):
            return
    number = ATTEMPTS
    for layer in context.roles.layers:
        for expert, name in enumerate(layer.experts):
            if name in names and not reached[name] and number < ATTEMPTS + FORCED:
                yield number, (layer.name, expert)
                number += 1


def _compare(
    context: Context,
    models: tuple[nn.Module, nn.Module, nn.Module],
    inputs: Any,
    forbidden: Mapping[str, Change],
    force: tuple[str, int] | None,
    stayed: Mapping[str, list[int]],
    seen: _Comparison,
) -> Finding | None:
    full, masked, pruned = models
    changes, theirs = dict(forbidden), {}
    if force is not None:
        layer, expert = force
        before = changes.get(layer)
        changes[layer] = lambda logits: towards(expert)(logits if before is None else before(logits))
        theirs[layer] = towards(stayed[layer].index(expert))
        seen.forced.append(f"{layer}: expert {expert}")
    with Routing(pruned, context.roles, theirs) as mine:
        got = _output(pruned, "the pruned model", inputs)
    with Routing(masked, context.roles, changes) as other:
        expected = _output(masked, "the masked original, which the pruned model is compared with,", inputs)
    scale = expected.abs().max()
    if not scale > 0 or got.shape != expected.shape or not got.isfinite().all():
        return failed("the outputs cannot be compared", scale=float(scale), shapes=[got.shape, expected.shape])
    error = float((got - expected).abs().max() / scale)
    if error >= TOLERANCE and min(mine.margin, other.margin) < NEAR_TIE:
        seen.near_ties += 1
        return None
    before = _output(full, "the original in float64", inputs)
    seen.inputs += 1
    seen.worst = max(seen.worst, error)
    seen.effect = max(seen.effect, float((before - expected).abs().max() / before.abs().max()))
    return None


def _output(model: nn.Module, name: str, inputs: Any) -> torch.Tensor:
    try:
        return run(model, inputs)
    except Exception as error:
        raise _DoesNotRun(model, name, error) from error

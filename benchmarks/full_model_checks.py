"""What a real-size model can be held to when there is no room for a second copy of it.

Kept weights are compared bit for bit with the originals, made again one at a time. The masked oracle runs on the first
layers at full width in float64: pruning is per layer apart from the residual stream, so a cut in depth shows the same.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.full_model_weights import build, random_tensor, shapes_before
from moeverify.checks.evidence.agreement import agreement
from moeverify.checks.evidence.forces import evenly
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.masking import mask_removed
from moeverify.checks.evidence.routing import Routing
from moeverify.checks.masked_conclusion import TOLERANCE
from moeverify.checks.reload import reloaded
from moeverify.models.exercise import count_reached, run_all
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.roles import find_roles
from moeverify.models.skeleton import shapes_of, skeleton
from moeverify.pruning.plan.apply import slice_kept
from moeverify.pruning.plan.plan import Plan
from moeverify.verdict import Status


@torch.no_grad()
def kept_weights(model: nn.Module, config: Any, plan: Plan, seed: int) -> str:
    """Empty if every parameter is the original at the kept positions, bit for bit; else what is not."""
    by_name: dict[str, dict[int, Any]] = {}
    for (name, dim), kept in plan.keep.items():
        by_name.setdefault(name, {})[dim] = kept
    for name, shape in shapes_before(model, config).items():
        parameter = model.get_parameter(name)
        expected = random_tensor(name, shape, parameter.dtype, parameter.device, seed)
        for dim, kept in by_name.get(name, {}).items():
            expected = slice_kept(expected, dim, kept)
        if not torch.equal(expected, parameter):
            return f"{name} does not hold the original values at the kept positions"
    return ""


def config_in_step(model: nn.Module) -> str:
    """Empty if the configuration rebuilds the same shapes; else what differs."""
    wanted, found = shapes_of(skeleton(model, model.config)), shapes_of(model)
    wrong = [name for name in wanted if wanted[name] != found.get(name)]
    return f"the configuration says {wanted[wrong[0]]} for {wrong[0]}, which is {found.get(wrong[0])}" if wrong else ""


def _finite(model: nn.Module, ids: torch.Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in run_all(model, {"input_ids": ids}).values())


@torch.no_grad()
def every_expert(model: nn.Module, ids: torch.Tensor) -> tuple[str, int]:
    """Every routed expert computes on tokens routed to it, with finite results.

    With random weights the tokens of deep layers are much alike, so that routers choose few experts. Where some got no
    token, the routers of those layers give their tokens to all experts in turn in a second forward.

    Returns what is wrong (empty if nothing), and how many experts no router chose by itself.
    """
    roles = find_roles(model)
    with count_reached(model, roles) as reached:
        finite = _finite(model, ids)
        forced = sum(not count for count in reached.values())
        poor = [layer.name for layer in roles.layers if not all(map(reached.get, layer.experts))]
        if poor:
            with Routing(model, roles, {name: evenly() for name in poor}):
                finite = finite and _finite(model, ids)
    if not finite:
        return "an output is not finite", forced
    missed = [name for name, count in reached.items() if not count]
    wrong = f"{len(missed)} experts got no token, such as {missed[0]}; use more tokens" if missed else ""
    return wrong, forced


def masked(model: nn.Module, config: Any, plan: Plan, layers: int, seed: int, ids: torch.Tensor) -> tuple[str, float]:
    """The first ``layers`` layers against the original's with the removed channels held at zero, in float64.

    Returns what is wrong (empty if nothing) and the relative error.
    """
    first = next(model.parameters())
    short = copy.deepcopy(config)
    short.num_hidden_layers = layers
    original = in_float64(build(short, first.dtype, first.device, seed))
    names = {name for name, _ in original.named_parameters()}
    kept = {(n, d): Kept(positions, True) for (n, d), positions in plan.keep.items() if n in names}
    cut_config = copy.deepcopy(model.config)
    cut_config.num_hidden_layers = layers
    cut = build(cut_config, first.dtype, first.device, seed)
    with torch.no_grad():
        for name, parameter in cut.named_parameters():
            parameter.copy_(model.get_parameter(name))
    cut = in_float64(cut)
    with float64_throughout():
        before = run_all(original, {"input_ids": ids})
        mask_removed(original, kept, cut)
        expected, got = run_all(original, {"input_ids": ids}), run_all(cut, {"input_ids": ids})
    found = agreement(got, expected, before)
    if found.wrong or found.blind:
        return f"cannot be compared with the masked original: {found.wrong or found.blind}", float("inf")
    if not found.error < TOLERANCE:
        gap = f"{found.error:.1e} (allowed {TOLERANCE:.0e})"
        return f"{found.worst} differs from the masked original by {gap}", found.error
    return ("" if found.effect > 1e3 * TOLERANCE else "the mask changed nothing, so nothing was shown"), found.error


def reload(model: nn.Module, ids: torch.Tensor, folder: Path | None) -> str:
    """Empty if a fresh process of plain transformers gives the same logits from a folder; else what is wrong."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    finding = reloaded(model, {"input_ids": ids}, dtype, folder)
    return "" if finding.status is Status.PASS else finding.message

"""``untouched-identical``"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.kept import is_part, kept_part, tensors_of
from moeverify.checks.evidence.locate import bits
from moeverify.checks.evidence.router_tensors import router_axes
from moeverify.checks.registry import Finding, check, failed, passed
from moeverify.models.roles import MoELayer


@check("untouched-identical")
def untouched_identical(context: Context) -> Finding:
    """Proves that pruning removed and did nothing else. Names, dtypes and devices are the same. Parameters stay
    Parameters and buffers stay buffers, saved or not. What was trainable or tied still is.

    A permutation shared by all tensors would leave the outputs alone, and is refused all the same. Adapters, optimiser
    states and activation statistics are mapped back to the original by the order of channels. Exception: where whole
    experts went, those that stay may come in any order. Where the values do not show the order (all equal), nothing is
    claimed. Buffers that a forward fills anew are held to the same rule. Does not prove that enough was removed, or
    the right channels.
    """
    for judge in (_ties, _names, _kinds, _values, _order):
        if (finding := judge(context)) is not None:
            return finding
    count = sum(1 for _ in context.pairs())
    return passed(f"{count} tensors hold their old values in their old order, as what they were")


def _names(context: Context) -> Finding | None:
    gone_experts = {
        name
        for layer in context.roles.layers
        for name in tensors_of(context.original)
        if (expert := layer.owner(name)) is not None and not _expert_stays(context, layer, expert)
    }
    before = set(tensors_of(context.original)) - gone_experts
    after = {context.source_names.get(n, n) for n in tensors_of(context.pruned)}
    missing, added = sorted(before - after), sorted(after - before)
    if missing:
        return failed(f"{missing[0]} is gone: no parameter or buffer any more", missing=missing[:50], added=added[:50])
    if added:
        return failed(f"{added[0]} was not there before", added=added[:50])
    return None


def _expert_stays(context: Context, layer: MoELayer, expert: int) -> bool:
    return any(layer.owner(source) == expert for source in context.source_names.values())


def _kinds(context: Context) -> Finding | None:
    saved_before, saved_after = set(context.original.state_dict()), set(context.pruned.state_dict())
    before = tensors_of(context.original)
    for name, tensor in tensors_of(context.pruned).items():
        source = context.source_names.get(name, name)
        was = before[source]
        for what, old, new in (
            ("kind", _kind(was), _kind(tensor)),
            ("dtype", str(was.dtype), str(tensor.dtype)),
            ("device", str(was.device), str(tensor.device)),
            ("requires_grad", was.requires_grad, tensor.requires_grad),
            ("saved with the model", source in saved_before, name in saved_after),
        ):
            if old != new:
                return failed(f"{name}: {what} was {old}, is {new}", parameter=name, what=what, before=old, after=new)
    return None


def _kind(tensor: torch.Tensor) -> str:
    return "Parameter" if isinstance(tensor, nn.Parameter) else "buffer"


def _tied(model: nn.Module) -> dict[str, frozenset[str]]:
    """Parameters with several names: the first one, and all."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, tensor in model.named_parameters(remove_duplicate=False):
        groups[id(tensor)].append(name)
    return {names[0]: frozenset(names) for names in groups.values() if len(names) > 1}


def _ties(context: Context) -> Finding | None:
    """Parameters have the names that they had. Experts that moved up have as many, each under its new number."""
    sources = context.source_names
    now = {sources.get(name, name) for name in tensors_of(context.pruned)}
    moved = {source for name, source in sources.items() if name != source}
    before = {first: names for first, names in _tied(context.original).items() if first in now}
    after = {sources.get(first, first): names for first, names in _tied(context.pruned).items()}
    for first in sorted(before.keys() | after.keys()):
        old, new = before.get(first, frozenset()), after.get(first, frozenset())
        if len(old) == len(new) if first in moved else old == new:
            continue
        lost = old if len(old) > len(new) or not new else new
        kind = "no longer" if lost is old else "now"
        return failed(f"{' and '.join(sorted(lost))} are {kind} one tensor", tied=sorted(lost))
    return None


def _values(context: Context) -> Finding | None:
    for name, before, after in context.pairs():
        if is_part(after, before, name, context.kept):
            continue
        expected = kept_part(before, name, context.kept)
        evidence: dict[str, Any] = {"parameter": name, "before": tuple(before.shape), "after": tuple(after.shape)}
        if expected is None or expected.shape != after.shape:
            experts = _unknown_experts(name, context)
            of = f" of expert {experts[0]}" if experts else ""
            return failed(
                f"{name}: kept values{of} were altered, none of the original's fit", experts=experts, **evidence
            )
        differing = np.argwhere(bits(expected) != bits(after))
        where = tuple(int(i) for i in differing[0])
        evidence |= {"position": where, "differing": len(differing), "of": after.numel()}
        evidence |= {"expected": str(expected[where].item()), "is": str(after[where].item())}
        return failed(f"{name}: {len(differing)} of {after.numel()} kept values were altered", **evidence)
    return None


def _unknown_experts(name: str, context: Context) -> list[int]:
    """Experts of a stack whose kept channels could not be recovered, if not all of them."""
    for dim in (1, 2):
        part = context.kept.get((name, dim))
        if part is not None and part.positions.ndim == 2:
            unknown = np.flatnonzero((part.positions < 0).any(axis=1)).tolist()
            if len(unknown) < len(part.positions):
                return unknown
    return []


def _order(context: Context) -> Finding | None:
    for (name, dim), part in context.kept.items():
        steps = np.diff(np.sort(part.positions, axis=-1) if _counts_experts(context, name, dim) else part.positions)
        if part.exact and (steps <= 0).any():
            kind = "repeated" if (steps == 0).any() else "out of order"
            return failed(
                f"{name} dim {dim}: kept channels are {kind}",
                parameter=name,
                dim=dim,
                positions=part.positions.tolist(),
            )
    return None


def _counts_experts(context: Context, name: str, dim: int) -> bool:
    """Whether a dimension counts experts: kept ones may come in any order, which ``router-intact`` holds alike."""
    for layer in context.roles.layers:
        if layer.fused and name in layer.stacks and dim == 0:
            return True
        if router_axes(context.original, layer).get(name) == dim:
            return True
    return False

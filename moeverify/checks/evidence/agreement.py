"""Distance between the outputs of a pruned model and of its reference, tensor by tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from moeverify.models.outputs import scale_of

Outputs = Mapping[str, torch.Tensor]
# An output that shrank (keys of a cache, logits of a router) is a selection of the reference's, to this precision.
_SELECTED = 1e-9
OF_EACH_EXPERT = (
    "has an entry for each expert, of which the layers keep different ones, and is not compared; leave it out of what "
    "the model returns"
)

OF_ALL_EXPERTS = (
    "is one number over all experts, such as a balancing loss, and follows how many there are, so it is not compared; "
    "leave it out of what the model returns"
)


@dataclass(frozen=True)
class Agreement:
    """``error``: largest relative difference, of output ``worst``; ``effect``: how much the mask itself changes.

    ``wrong``: what cannot be compared because the pruned model differs in kind. ``blind``: what cannot be compared
    because the reference has no such value.
    """

    error: float = 0.0
    worst: str = ""
    effect: float = 0.0
    wrong: str = ""
    blind: str = ""


def agreement(got: Outputs, expected: Outputs, before: Outputs) -> Agreement:
    """Compare the pruned model's outputs with the reference's; ``before`` are the original's without any mask.

    Values that the original itself has not finite are no evidence: NaN is left out, infinity must be the same.
    """
    if got.keys() != expected.keys():
        name = next(iter(sorted(got.keys() ^ expected.keys())))
        return Agreement(wrong=f"{name} is returned by {'the pruned model' if name in got else 'the original'} alone")
    error, worst, effect, compared, blind = 0.0, "", 0.0, 0, ""
    for name, mine in got.items():
        reference, plain = expected[name], before[name]
        if mine.shape != reference.shape:
            selected = _selection(mine, reference)
            if selected is None:
                shapes = f"{list(mine.shape)} where the original's is {list(reference.shape)}"
                return Agreement(wrong=f"{name} has shape {shapes}")
            dim, positions = selected
            reference, plain = reference.index_select(dim, positions), plain.index_select(dim, positions)
        usable = plain.isfinite()
        if bool((usable & ~reference.isfinite()).any()):
            blind = blind or f"{name} of the masked original is not finite where the original is"
            continue
        infinite = plain.isinf() & (reference == plain)
        if bool((infinite & (mine != reference)).any()) or bool((usable & ~mine.isfinite()).any()):
            return Agreement(wrong=f"{name} holds NaN or infinity where the original does not")
        if not bool(usable.any()):
            continue
        compared += 1
        scale = scale_of(reference)
        gap = float((mine - reference)[usable].abs().max())
        this = gap / scale if scale else (0.0 if gap == 0 else float("inf"))
        if this > error or not worst:
            error, worst = this, name
        if plain_scale := scale_of(plain):
            effect = max(effect, float((plain - reference)[usable].abs().max()) / plain_scale)
    if not compared:
        blind = blind or (
            "the model returns no floating-point tensor" if not got else "no output of the original is finite"
        )
    return Agreement(error, worst, effect, "", blind)


def of_each_expert(got: Outputs, expected: Outputs, counts: Collection[tuple[int, int]]) -> list[str]:
    """Outputs that became smaller as the experts did, ``counts`` before and after, and select none of the reference.

    Example: loads of all layers in one tensor ``[layers, experts]``, of which each layer keeps other experts.
    """
    names = []
    for name in got.keys() & expected.keys():
        mine, reference = got[name], expected[name]
        if mine.dim() == reference.dim() and mine.shape != reference.shape and _selection(mine, reference) is None:
            changed = {(old, new) for old, new in zip(reference.shape, mine.shape, strict=True) if old != new}
            names += [name] if changed <= set(counts) else []
    return sorted(names)


def single_numbers(got: Outputs, layers: int) -> list[str]:
    """Outputs that are one number, or one for each of so many MoE layers."""
    return sorted(n for n, t in got.items() if t.numel() == 1 or tuple(t.shape) == (layers,))


def _selection(mine: torch.Tensor, reference: torch.Tensor) -> tuple[int, torch.Tensor] | None:
    """The dimension along which ``mine`` is a selection of ``reference``, in order, and its positions."""
    if mine.dim() != reference.dim():
        return None
    dims = [d for d in range(mine.dim()) if mine.shape[d] != reference.shape[d]]
    if len(dims) != 1 or mine.shape[dims[0]] > reference.shape[dims[0]]:
        return None
    dim = dims[0]
    new, old = (t.movedim(dim, 0).reshape(t.shape[dim], -1) for t in (mine, reference))
    allowed = _SELECTED * (scale_of(reference) or 1.0)
    positions, at = [], 0
    for row in new:
        while at < len(old) and not bool(((row - old[at]).abs() <= allowed).all() | torch.equal(row, old[at])):
            at += 1
        if at == len(old):
            return None
        positions.append(at)
        at += 1
    return dim, torch.tensor(positions, device=mine.device)

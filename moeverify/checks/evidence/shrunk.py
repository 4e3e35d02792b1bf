"""Outputs that lost channels: whether the channels were the output's own, or internal ones that it shows.

A cache of keys shrinks rightly with the heads' channels, since other layers use them. Only the caller uses the classes
of a second head. The original shows which of the two it is. The layer that makes the output is held at zero where it
was cut. The channels are internal if other outputs change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from moeverify.checks.evidence.kept import Kept, tensors_of
from moeverify.checks.evidence.masking import zero_removed
from moeverify.checks.evidence.sight import differ

Outputs = Mapping[str, torch.Tensor]
KeptMap = Mapping[tuple[str, int], Kept]
# Of its largest value, an output changes by more where it depends on what was held at zero.
_LEAST = 1e-6


def shrunk_dim(before: Sequence[int], after: Sequence[int]) -> int | None:
    """The one dimension that got smaller; ``None`` if the shapes differ in any other way."""
    if len(before) != len(after):
        return None
    dims = [d for d, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return dims[0] if len(dims) == 1 and after[dims[0]] < before[dims[0]] else None


def used_elsewhere(
    original: nn.Module,
    forward: Callable[[nn.Module], Outputs],
    kept: KeptMap,
    lost: Mapping[str, tuple[int, int]],
) -> dict[str, bool | None]:
    """For each output of ``lost`` (its dimension and how many channels it lost): whether other outputs use them.

    ``None`` where no cut layer is seen to make the output. ``original`` is changed and put back.
    """
    before = forward(original)
    # What counts is computed with the channels, not chosen by them: a position of the largest says nothing of use.
    others = {name: tensor for name, tensor in before.items() if name not in lost and tensor.is_floating_point()}
    result: dict[str, bool | None] = dict.fromkeys(lost)
    for owner in reversed(_owners(original, kept)):
        with _zeroed(original, kept, owner):
            after = forward(original)
        for name, (dim, count) in lost.items():
            if result[name] is None and _constant(after[name], dim) - _constant(before[name], dim) >= count:
                result[name] = differ(others, {n: after[n] for n in others}, _LEAST)
        if None not in result.values():
            break
    return result


def _owners(model: nn.Module, kept: KeptMap) -> list[str]:
    """Modules with a tensor that was cut, in the model's order."""
    cut = {name for name, _ in kept}
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors_of(model) if name in cut))


@contextlib.contextmanager
def _zeroed(model: nn.Module, kept: KeptMap, owner: str) -> Iterator[None]:
    """A context in which the removed positions of one module's own tensors are zero."""
    tensors = tensors_of(model)
    mine = [(n, d, k) for (n, d), k in kept.items() if n.rpartition(".")[0] == owner and n in tensors]
    saved = {name: tensors[name].detach().clone() for name, _, _ in mine}
    try:
        for name, dim, part in mine:
            zero_removed(tensors[name], dim, part.positions)
        yield
    finally:
        with torch.no_grad():
            for name, values in saved.items():
                tensors[name].copy_(values)


def _constant(output: torch.Tensor, dim: int) -> int:
    """Number of slices along ``dim`` that hold one and the same value throughout."""
    rows = output.movedim(dim, 0).reshape(output.shape[dim], -1)
    return int((rows == rows[:, :1]).all(1).sum()) if rows.numel() else 0

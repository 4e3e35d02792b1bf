"""Classes scored at once: stacks slice by slice in one operation, alike layers and listed experts as one stack.

A *row* is what an importance would be called for: a class, one expert of a class, or one class among alike ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import Group

from moeverify.coupling.classify import PruningClass
from moeverify.models.folder.stored_tensor import values_of
from moeverify.pruning.choice.formulas import Formula
from moeverify.pruning.choice.parts import Part, Source, ascending

# Elements that one operation takes: a copy of them should fit into a cache of the CPU, and be small beside a layer.
AT_ONCE = {"cpu": 2**20}
AT_ONCE_ELSEWHERE = 2**26
# Without a source of one position a unit, up to this many are scored one by one and averaged.
FEW_POSITIONS = 4
_SIDES = (tp.prune_linear_out_channels, tp.prune_linear_in_channels)
_LINEAR = nn.Linear(1, 1, device="meta")


class NoBatch(Exception):
    """A class that has to be scored by the importance itself."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Sources of the same shape, one for each row, or one for all of them."""

    sources: tuple[Source, ...]

    @property
    def first(self) -> Source:
        """The first source of the stack, which represents the others."""
        return self.sources[0]

    @property
    def width(self) -> int:
        """Positions of a unit."""
        return int(self.first.positions.shape[2])

    @property
    def matrices(self) -> int:
        """Number of matrices of each row that an importance counts: norm weights are left out by most."""
        if self.first.parameter is not None:
            return 1 if self.first.each else max(self.first.slices, 1)
        weight = getattr(self.first.layer, "weight", None)
        return int(isinstance(weight, torch.Tensor) and weight.dim() > 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows that are scored at once.

    ``numbers``: either several classes, one per row, or one class of ``rows`` experts.
    """

    numbers: tuple[int, ...]
    rows: int
    size: int
    stacks: tuple[Stack, ...]


def batches_of(classes: Mapping[int, tuple[PruningClass, Sequence[Source]]]) -> list[Batch]:
    """The classes in batches: alike classes of linear layers together, every other class alone."""
    alike: dict[Any, list[int]] = {}
    for number, (pruning_class, sources) in classes.items():
        alike.setdefault(_likeness(pruning_class, sources) or number, []).append(number)
    batches = []
    for numbers in alike.values():
        pruning_class, _ = classes[numbers[0]]
        stacks = tuple(Stack(together) for together in zip(*(classes[n][1] for n in numbers), strict=True))
        rows = max(pruning_class.experts, 1) if len(numbers) == 1 else len(numbers)
        batches.append(Batch(tuple(numbers), rows, pruning_class.coupling.size, stacks))
    return batches


def _likeness(pruning_class: PruningClass, sources: Sequence[Source]) -> Any:
    """Key that is equal for classes whose linear layers have the same shapes and positions; ``None`` to score one
    alone.
    """
    if pruning_class.experts:
        return None
    keys = [_source_key(source) for source in sources]
    return None if None in keys else tuple(keys)


def _source_key(source: Source) -> Any:
    """Key that is equal for linear layers of the same shapes and positions; ``None`` for anything else."""
    layer = source.layer
    if type(layer) is not nn.Linear or source.handler not in _SIDES:
        return None
    tensors = (layer.weight, layer.bias, layer.weight.grad, None if layer.bias is None else layer.bias.grad)
    kinds = tuple(None if t is None else (t.shape, t.dtype, t.device) for t in tensors)
    return source.handler, kinds, source.positions.shape, source.positions.tobytes()


def batch_scores(batch: Batch, formula: Formula) -> torch.Tensor:
    """Scores ``[rows, units]`` on the CPU. Sources on different devices are scored apart and averaged by number.

    Raises ``NoBatch`` if the importance itself has to be called.
    """
    result = []
    with torch.no_grad():
        for stacks in _by_device(batch.stacks):
            scores = _share_scores(stacks, batch, formula)
            if scores is not None:
                result.append((max(1, sum(stack.matrices for stack in stacks)), scores.cpu()))
    if not result:
        raise NoBatch
    if len(result) == 1:
        return result[0][1]
    return torch.stack([count * scores for count, scores in result]).sum(0) / sum(count for count, _ in result)


def _by_device(stacks: Sequence[Stack]) -> list[list[Stack]]:
    """Stacks grouped by device; one without a weight joins the first group."""
    shares: dict[torch.device | None, list[Stack]] = {}
    home = next((device for stack in stacks if (device := _device_of(stack)) is not None), None)
    for stack in stacks:
        shares.setdefault(_device_of(stack) or home, []).append(stack)
    return list(shares.values())


def _device_of(stack: Stack) -> torch.device | None:
    return stack.first.device


@dataclass(frozen=True, eq=False)
class _Item:
    """Scores ``[matrices, n]`` of an item of the group, and the units ``[1 or rows, n]`` that they belong to."""

    scores: torch.Tensor
    units: torch.Tensor


def _share_scores(stacks: Sequence[Stack], batch: Batch, formula: Formula) -> torch.Tensor | None:
    """Scores of the stacks on one device; ``None`` if the importance scores none of them."""
    single = any(stack.width == 1 for stack in stacks)
    added_up = formula.reduction in ("sum", "mean")
    items: list[_Item] = []
    together: list[Stack] = []
    result: list[torch.Tensor] = []
    for stack in sorted(stacks, key=lambda stack: stack.width > 1):
        apart = batch.rows > 1 and stack.first.slices and not stack.first.each
        if apart or stack.first.span:
            raise NoBatch
        positions = stack.first.positions
        if single and added_up:
            together.append(stack)
        elif single or stack.width <= FEW_POSITIONS:
            for number in range(stack.width):
                items += _items(stack, positions[:, :, number : number + 1], formula)
        else:  # a head: position by position, then averaged
            result += _position_scores(stack, batch, formula)
    items += _added_up(together, formula)
    if items:
        result.append(formula.normalized(_reduced(items, batch.rows, formula.reduction)).float()[:, : batch.size])
    return torch.stack(result).mean(0) if result else None


def _added_up(stacks: Sequence[Stack], formula: Formula) -> Iterator[_Item]:
    """The items of all positions of stacks, in the order of these; alike layers in memory are computed at once."""
    alike: dict[Any, list[int]] = {}
    for number, stack in enumerate(stacks):
        key = _source_key(stack.first) if len(stack.sources) == 1 and stack.first.in_memory else None
        alike.setdefault(number if key is None else key, []).append(number)
    made: dict[int, list[_Item]] = {number: [] for number in range(len(stacks))}
    for numbers in alike.values():
        first, *others = (stacks[number] for number in numbers)
        merged = replace(first, sources=tuple(s.first for s in (first, *others))) if others else first
        for item in _items(merged, first.first.positions, formula):
            for number, scores in zip(numbers, item.scores.split(1) if others else [item.scores], strict=True):
                made[number].append(_Item(scores, item.units))
    for items in made.values():
        yield from items


def _position_scores(stack: Stack, batch: Batch, formula: Formula) -> list[torch.Tensor]:
    """Each unit's mean over its positions, ``[rows, units]``; of every matrix by itself if all belong to one row.

    Empty if the importance does not score the stack.
    """
    places = stack.first.positions.reshape(len(stack.first.positions), -1)
    items = list(_items(stack, np.sort(places)[:, :, None], formula))
    if not items:
        return []
    rows = max(batch.rows, len(items[0].scores))
    scores = formula.normalized(_reduced(items, rows, formula.reduction)).float()
    order = torch.as_tensor(np.argsort(places, kind="stable"), device=scores.device).expand(rows, -1)
    means = torch.empty_like(scores).scatter_(1, order, scores).view(rows, batch.size, -1).mean(2)
    return [means] if batch.rows > 1 else list(means.split(1))


def _items(stack: Stack, positions: np.ndarray, formula: Formula) -> Iterator[_Item]:
    """The items of a stack: its weights, and the biases that the importance counts as well.

    ``positions``: those to score, ``[rows, units, n]``.
    """
    source = stack.first
    places, units = (torch.as_tensor(a, device=source.device) for a in _ordered(positions))
    if source.layer is None:
        assert source.parameter is not None
        dim = source.dim if source.slices else source.dim + 1
        values, gradients = source.parameter.detach(), source.parameter.grad
        some = slice(source.slices) if source.slices else None  # a stack may end with experts that are no routed ones
        values, gradients = values[some], None if gradients is None else gradients[some]
        if formula.takes(_LINEAR) and _has_gradients([gradients], formula):
            yield _item(_local(formula, values, gradients, dim, copied=True), places, units)
    elif not formula.takes(source.layer):
        return
    elif isinstance(source.layer, nn.Linear) and source.handler in _SIDES:
        layers: list[Any] = [s.layer for s in stack.sources]
        output = source.handler == _SIDES[0]
        for name in ("weight", "bias") if output and formula.importance.bias else ("weight",):
            parameters = [getattr(layer, name) for layer in layers]
            if parameters[0] is None or not _has_gradients([p.grad for p in parameters], formula):
                continue
            gradients = [p.grad for p in parameters] if formula.needs_gradient else None
            scores = _local(formula, [p.detach() for p in parameters], gradients, 1 if output else 2, copied=output)
            yield _item(scores, places, units)
    else:
        yield from _asked(source, places, units, formula)


def _ordered(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``[rows, units, n]`` in ascending order, and the unit of each, both ``[rows, units * n]``."""
    if positions.shape[0] == positions.shape[2] == 1 and (np.diff(positions[0, :, 0]) > 0).all():
        return positions[:, :, 0].copy(), np.arange(positions.shape[1])[None]  # as most are
    places, units = zip(*map(ascending, positions), strict=True)
    return np.stack(places), np.stack(units)


def _has_gradients(gradients: Sequence[torch.Tensor | None], formula: Formula) -> bool:
    """Whether matrices have what the formula needs; what it passes over has not. Raises ``NoBatch`` for an error."""
    if not formula.needs_gradient or all(gradient is not None for gradient in gradients):
        return True
    if not formula.passes_over_missing_gradients:
        raise NoBatch
    return False


def _asked(source: Source, places: torch.Tensor, units: torch.Tensor, formula: Formula) -> Iterator[_Item]:
    """The item of a layer that only the importance itself can score, such as a norm or a convolution."""
    if formula.importance.bias and getattr(source.layer, "bias", None) is not None:
        raise NoBatch
    alone = copy.copy(formula.importance)
    alone.group_reduction, alone.normalizer = "sum", None
    assert source.layer is not None
    item = Part(source.layer, source.handler, places.cpu().numpy().reshape(-1, 1)).item(
        places.cpu().numpy().reshape(-1, 1)
    )
    group = Group()
    group._group.append(item)
    try:
        scores = alone(group)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise NoBatch from error
    if scores is not None:
        yield _Item(scores.view(places.shape), units)


def _item(scores: torch.Tensor, places: torch.Tensor, units: torch.Tensor) -> _Item:
    """The scores at the places of each row."""
    if len(places) == 1:
        return _Item(scores[:, places[0]], units)
    return _Item(scores.expand(len(places), -1).gather(1, places), units)


def _local(
    formula: Formula,
    values: torch.Tensor | list[torch.Tensor],
    gradients: torch.Tensor | list[torch.Tensor] | None,
    dim: int,
    *,
    copied: bool,
) -> torch.Tensor:
    """Scores ``[matrices, channels]`` of matrices along ``dim``, a few of them at a time.

    ``copied``: whether the importance copies the rows that it takes, so that it sums over contiguous memory.
    """
    limit = AT_ONCE.get(values[0].device.type, AT_ONCE_ELSEWHERE)
    step = max(1, limit // max(values[0].numel(), 1))
    result = []
    for start in range(0, len(values), step):
        here, slope = (_some(tensors, start, step, dim) for tensors in (values, gradients))
        assert here is not None
        rows = max(1, limit // max(here[:, :1].numel(), 1))
        pieces = []
        for first in range(0, here.shape[1], rows):
            values_here, slope_here = (None if t is None else t[:, first : first + rows] for t in (here, slope))
            assert values_here is not None
            pieces.append(formula.scores(values_here, slope_here, copied=copied))
        result.append(torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0])
    return torch.cat(result) if len(result) > 1 else result[0]


def _some(tensors: torch.Tensor | list[torch.Tensor] | None, start: int, step: int, dim: int) -> torch.Tensor | None:
    """A few of the matrices as one tensor, with their channels second."""
    if tensors is None:
        return None
    some = tensors[start : start + step]
    # Weights in a file are read here, not again for each few of their channels.
    return (values_of(some) if isinstance(some, torch.Tensor) else torch.stack(some)).movedim(dim, 1)


def _reduced(items: Sequence[_Item], rows: int, reduction: str) -> torch.Tensor:
    """The items combined, ``[rows, units]``: those of a stack one after the other if they belong to the same row."""
    first = items[0].scores
    start = {"prod": 1.0, "max": -99999.0}.get(reduction, 0.0)
    total = torch.full((rows, first.shape[1]), start, device=first.device)
    entries = list(_entries(items, rows, flat=reduction in ("sum", "mean")))
    if reduction in ("first", "gate"):
        entries = entries[:1] if reduction == "first" else entries[-1:]
    count = 0
    for scores, units, number in entries:
        count += number
        if reduction in ("sum", "mean"):
            total.scatter_add_(1, units, scores)
            continue
        if reduction == "max":
            scores = torch.maximum(total.gather(1, units), scores)
        elif reduction == "prod":
            scores = total.gather(1, units) * scores
        total.scatter_(1, units, scores)
    return total / count if reduction == "mean" else total


def _entries(items: Sequence[_Item], rows: int, *, flat: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Scores and units ``[rows, n]``, and of how many matrices they are: of one, or with ``flat`` of a whole stack."""
    for item in items:
        scores, units = item.scores.float(), item.units
        if rows > 1 or len(scores) == 1:
            yield scores.expand(rows, -1), units.expand(rows, -1), 1
        elif flat:  # added up in the order of the matrices, so that no bit differs
            yield scores.reshape(1, -1), units.repeat(1, len(scores)), len(scores)
        else:
            yield from ((row[None], units, 1) for row in scores)

"""Whole numbers in settings of modules: which of them follow a size, and which show in what the model computes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import nn

from moeverify.checks.evidence.settings import Setting, settings_of
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs
from moeverify.models.state import same_start

Number = int | None


class Sizes(NamedTuple):
    """``pairs``: sizes before and after of what became smaller. ``largest``: size of the largest dimension before."""

    pairs: frozenset[tuple[int, int]]
    largest: int


def unseen_numbers(
    pruned: nn.Module, changed: Mapping[Setting, tuple[Number, Number]], sizes: Sizes, inputs: Any, seed: int
) -> Iterator[tuple[Setting, Number, Number]]:
    """Those of ``changed``, before and after, that follow no size and do not show in what ``pruned`` computes.

    A number follows a size if it went from one value to the other as a dimension or a list did. It does as well if it
    changed by the same factor and is no larger than a dimension. What takes the place of ``None`` follows a size if it
    is one.
    """
    factors = {Fraction(new, old) for old, new in sizes.pairs if old}
    for place, (old, new) in changed.items():
        if not _follows(old, new, sizes, factors) and _idle(pruned, place, old, inputs, seed):
            yield place, old, new


def _follows(old: Number, new: Number, sizes: Sizes, factors: Collection[Fraction]) -> bool:
    if old is None or new is None:
        return new is not None and any(new == after for _, after in sizes.pairs)
    return (old, new) in sizes.pairs or (0 < old <= sizes.largest and Fraction(new, old) in factors)


def follows_and_shows(
    original: nn.Module, pruned: nn.Module, entry: tuple[str | int, ...], old: int, new: int, sizes: Sizes,
    inputs: Any, seed: int,
) -> bool:  # fmt: skip
    """Whether an entry of the configuration changed by the factor of a size, and outputs show which value it has.

    Example: a number of heads that divides a width inside of a forward. With the base's value, in the configuration and
    in the modules that keep it, the heads are narrower. Whether the new value is right, the outputs tell.
    """
    if not old or Fraction(new, old) not in {Fraction(after, before) for before, after in sizes.pairs if before}:
        return False
    other: Any = copy.deepcopy(pruned)
    before = settings_of(original)
    _with(other.config, entry, old)
    for place, value in settings_of(pruned).items():
        if type(value) is int and (before.get(place), value) == (old, new):
            _put(other, place, old)
    return not same_outputs(pruned, other, inputs, seed)


def sizes_before_and_after(original: nn.Module, pruned: nn.Module, sources: Mapping[str, str]) -> Sizes:
    """Sizes of dimensions, and of modules that hold others. ``sources`` gives a parameter's name in the original.

    Experts times channels is a size, too, in a stack or in a list of modules.
    """
    shapes: dict[str, tuple[int, ...]] = {name: p.shape for name, p in original.named_parameters()}
    both = {name: (shapes.get(sources.get(name, name), ()), p.shape) for name, p in pruned.named_parameters()}
    pairs = {pair for before, after in both.values() for pair in zip(before, after, strict=False)}
    for before, after in both.values():
        if len(before) == len(after) > 2:
            pairs |= {(b * before[0], a * after[0]) for b, a in zip(before[1:], after[1:], strict=True)}
    modules = dict(original.named_modules())
    for path, module in pruned.named_modules():
        if path in modules:
            counts = len(list(modules[path].children())), len(list(module.children()))
            pairs.add(counts)
            if isinstance(module, nn.ModuleList):
                inside = (both[f"{path}.{name}"] for name, _ in module.named_parameters() if f"{path}.{name}" in both)
                pairs |= {(counts[0] * b, counts[1] * a) for old, new in inside for b, a in zip(old, new, strict=False)}
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    return Sizes(frozenset((old, new) for old, new in pairs if old != new), largest)


def _idle(pruned: nn.Module, place: Setting, value: Number, inputs: Any, seed: int) -> bool:
    """Whether the pruned model computes the same, bit for bit, with another value of a setting, or cannot have it."""
    other = copy.deepcopy(pruned)
    return not _put(other, place, value) or same_outputs(pruned, other, inputs, seed)


def same_outputs(one: nn.Module, other: nn.Module, inputs: Any, seed: int) -> bool:
    """Whether two models compute the same, bit for bit; ``False`` if one of them does not run."""
    try:
        with torch.no_grad():
            with same_start(one, seed):
                mine = float_outputs(call_model(one, inputs, use_cache=False))
            with same_start(other, seed):
                theirs = float_outputs(call_model(other, inputs, use_cache=False))
    except Exception:
        return False
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _put(model: nn.Module, place: Setting, value: Number) -> bool:
    """Set a setting; returns False inside of a container that cannot be changed or built anew."""
    try:
        _with(model.get_submodule(place.module), (place.attribute, *place.steps), value)
    except (TypeError, AttributeError):
        return False
    return True


def _with(holder: Any, steps: tuple[str | int, ...], value: Number) -> Any:
    """What holds a value at the end of ``steps``: the same object, or a new tuple."""
    if not steps:
        return value
    step, *rest = steps
    inner = _with(_inner(holder, step), tuple(rest), value)
    if isinstance(holder, tuple):
        entries = [inner if number == step else entry for number, entry in enumerate(holder)]
        return type(holder)(*entries) if hasattr(holder, "_fields") else type(holder)(entries)
    if isinstance(holder, Mapping | list):
        holder[step] = inner  # type: ignore[index]
    else:
        object.__setattr__(holder, str(step), inner)
    return holder


def _inner(holder: Any, step: Any) -> Any:
    return holder[step] if isinstance(holder, Mapping | list | tuple) else getattr(holder, str(step))

"""Whole numbers in settings of modules: which of them follow a size, and which show in what the model computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import nn

from moeverify.checks.evidence.settings import Setting
from moeverify.models.forward import call_model
from moeverify.models.outputs import float_outputs
from moeverify.models.state import same_start


class Sizes(NamedTuple):
    """``pairs``: sizes before and after of what became smaller. ``largest``: size of the largest dimension before."""

    pairs: frozenset[tuple[int, int]]
    largest: int


def unseen_numbers(
    pruned: nn.Module, changed: Mapping[Setting, tuple[int, int]], sizes: Sizes, inputs: Any, seed: int
) -> Iterator[tuple[Setting, int, int]]:
    """Those of ``changed``, before and after, that follow no size and do not show in what ``pruned`` computes.

    A number follows a size if it went from one value to the other as a dimension or a list did. It does as well if it
    changed by the same factor and is no larger than a dimension.
    """
    factors = {Fraction(new, old) for old, new in sizes.pairs if old}
    for place, (old, new) in changed.items():
        follows = (old, new) in sizes.pairs or (0 < old <= sizes.largest and Fraction(new, old) in factors)
        if not follows and _idle(pruned, place, old, inputs, seed):
            yield place, old, new


def sizes_before_and_after(original: nn.Module, pruned: nn.Module, sources: Mapping[str, str]) -> Sizes:
    """Sizes of dimensions, and of modules that hold others. ``sources`` gives a parameter's name in the original."""
    shapes = {name: p.shape for name, p in original.named_parameters()}
    pairs = {
        pair
        for name, p in pruned.named_parameters()
        for pair in zip(shapes.get(sources.get(name, name), ()), p.shape, strict=False)
    }
    modules = dict(original.named_modules())
    for path, module in pruned.named_modules():
        if path in modules:
            pairs.add((len(list(modules[path].children())), len(list(module.children()))))
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    return Sizes(frozenset((old, new) for old, new in pairs if old != new), largest)


def _idle(pruned: nn.Module, place: Setting, value: int, inputs: Any, seed: int) -> bool:
    """Whether the pruned model computes the same, bit for bit, with another value of a setting."""
    other = copy.deepcopy(pruned)
    if not _put(other, place, value):
        return False
    try:
        with torch.no_grad():
            with same_start(pruned, seed):
                mine = float_outputs(call_model(pruned, inputs, use_cache=False))
            with same_start(other, seed):
                theirs = float_outputs(call_model(other, inputs, use_cache=False))
    except Exception:
        return False  # one of them does not run
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _put(model: nn.Module, place: Setting, value: int) -> bool:
    """Set a setting; returns False inside of a tuple."""
    holder: Any = model.get_submodule(place.module)
    steps = (place.attribute, *place.steps)
    for step in steps[:-1]:
        holder = _inner(holder, step)
    last = steps[-1]
    if isinstance(holder, tuple):
        return False
    if isinstance(holder, dict | list):
        holder[last] = value  # type: ignore[index]
    else:
        object.__setattr__(holder, str(last), value)
    return True


def _inner(holder: Any, step: Any) -> Any:
    return holder[step] if isinstance(holder, Mapping | list | tuple) else getattr(holder, str(step))

"""One channel of one class removed from a model, against the same model with that channel held at zero."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.checks.evidence.agreement import agreement
from moeverify.checks.evidence.kept import Kept
from moeverify.checks.evidence.masking import mask_removed
from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.classes import CouplingClass
from moeverify.models.exercise import count_reached, run_all, vary_inputs
from moeverify.models.forward import Example
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.outputs import main_output
from moeverify.models.roles import find_roles
from moeverify.models.sources import LoadedModel
from moeverify.pruning.constants.absorb import absorb_all
from moeverify.pruning.constants.numbers import changed_numbers
from moeverify.pruning.constants.recorder import record_forward
from moeverify.pruning.plan.apply import apply_keep
from moeverify.pruning.plan.folds import apply_folds
from moeverify.suites.zoo_table.configured import (
    TIED_BY_CONFIGURATION,
    followers,
    hidden_entries,
    sizes_that_follow,
)

Keep = Mapping[tuple[str, int], np.ndarray]
TOLERANCE = 1e-9
INPUTS = 8


@dataclass(frozen=True)
class Equivalence:
    """The outcome for one role.

    ``error`` is the greatest relative difference of any output from the masked model's, ``effect`` that of the masked
    from the original one's; ``problem``: why there is no outcome. ``rewritten`` marks a model whose modules use
    sizes from the configuration, which had to be corrected by one.
    """

    role: str
    error: float = 0.0
    effect: float = 0.0
    rewritten: bool = False
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the outputs agree to ``TOLERANCE``, and removing the channel was not without effect."""
        return not self.problem and self.error < TOLERANCE and self.effect > 1e3 * TOLERANCE


def channel_equivalence(loaded: LoadedModel, chosen: PruningClass) -> Equivalence:
    """Remove the middle unit of ``chosen`` and compare in float64, on inputs that together reach every expert."""
    full = in_float64(loaded.model)
    keep = _without_unit(full, chosen.coupling, chosen.coupling.size // 2)
    pruned = copy.deepcopy(full)
    apply_keep(pruned, keep)
    try:
        return _compare(loaded, chosen.role, full, pruned, keep)
    except Exception:  # of whatever kind: a forward uses sizes from its configuration
        pass
    try:
        _rewrite_sizes(pruned, loaded.model, chosen)
        return replace(_compare(loaded, chosen.role, full, pruned, keep), rewritten=True)
    except Exception as error:
        return Equivalence(chosen.role, problem=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _with_numbers_kept(full: nn.Module, pruned: nn.Module, loaded: LoadedModel) -> nn.Module:
    """Copy of the pruned model in which weights take over constants that its forward derives from a size.

    Example: the scale of an attention over channels. Such a constant is no coupling.
    """
    before, after = (record_forward(model, Example(loaded.example_inputs)) for model in (full, pruned))
    folds, _ = absorb_all(before, changed_numbers(before, after))
    pruned = copy.deepcopy(pruned)
    apply_folds(pruned, folds)
    return pruned


def _rewrite_sizes(pruned: nn.Module, model: nn.Module, chosen: PruningClass) -> None:
    """Correct the sizes that modules took from the configuration: those that grow as the class's entry does."""
    size, near = chosen.coupling.size, None
    if chosen.role == "hidden":
        entries = hidden_entries(model)
    else:
        mine = {(m.parameter, m.dim) for m in chosen.coupling.members if not m.buffer}
        entries = next({f.entry: f.value} for f in followers(model) if mine <= f.dims)
        near = {above for name, _ in mine for above in _above(name)}
    new = next(iter(entries.values()))
    config: Any = model.config
    pattern, _ = TIED_BY_CONFIGURATION.get(config.model_type, ("$^", ""))
    tied = {name.rpartition(".")[0] for name, _ in model.named_parameters() if re.search(pattern, name)}
    tied |= {name.rpartition(".")[0] for name in tied}
    for (path, name), (before, after) in sizes_that_follow(model, entries).items():
        if before * new == after * size and path not in tied and (near is None or path in near):
            setattr(pruned.get_submodule(path), name, _Size(before - before // size, before))


def _above(name: str) -> Iterator[str]:
    """The modules that a parameter lies in."""
    while name:
        name = name.rpartition(".")[0]
        yield name


class _Size(int):
    """A size that shapes are made of, and that counts as what it was in formulas such as ``x / sqrt(size)``. A constant
    that an architecture derives from a size is no coupling.
    """

    _before: int

    def __new__(cls, size: int, before: int) -> _Size:
        self = super().__new__(cls, size)
        self._before = before
        return self

    def __float__(self) -> float:
        return float(self._before)

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        return pow(self._before, exponent, modulus)

    def __deepcopy__(self, memo: Any) -> _Size:
        return self


def _without_unit(model: nn.Module, coupling: CouplingClass, unit: int) -> Keep:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        (m.parameter, m.dim): np.setdiff1d(np.arange(tensors[m.parameter].shape[m.dim]), m.positions[unit])
        for m in coupling.members
    }


def _compare(
    loaded: LoadedModel,
    role: str,
    full: nn.Module,
    pruned: nn.Module,
    keep: Keep,
) -> Equivalence:
    with float64_throughout():
        run_all(pruned, vary_inputs(full, loaded.example_inputs, 0, torch.float64))  # else it is not asked for numbers
        pruned = _with_numbers_kept(full, pruned, loaded)
    masked = copy.deepcopy(full)
    mask_removed(masked, {key: Kept(positions, True) for key, positions in keep.items()}, pruned)
    worst = effect = 0.0
    with float64_throughout(), count_reached(masked, find_roles(masked)) as reached:
        for number in range(INPUTS):
            inputs = vary_inputs(full, loaded.example_inputs, 100 + number, torch.float64)
            got, expected, before = (run_all(model, inputs) for model in (pruned, masked, full))
            found, main = agreement(got, expected, before), main_output(expected)
            if found.wrong or found.blind or got[main].shape != expected[main].shape:
                raise ValueError(found.wrong or found.blind or f"{main} has another shape than the masked model's")
            worst, effect = max(worst, found.error), max(effect, found.effect)
            if all(reached.values()):
                break
    return Equivalence(role, worst, effect)

"""Random cuts of classes, for properties of the groups themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.pruning.configuration import shapes_of
from moeverify.pruning.plan.apply import apply_plan
from moeverify.pruning.plan.plan import Cut, make_plan

Signature = tuple[tuple[str, int], ...]


def signature(pruning_class: PruningClass) -> Signature:
    """Key of a class before and after others were cut."""
    return tuple((m.parameter, m.dim) for m in pruning_class.coupling.members)


def random_kept(size: int, keep: int, experts: int, generator: np.random.Generator) -> np.ndarray:
    """``keep`` of ``size`` units in ascending order, for each fused expert its own if there are any."""
    rows = [np.sort(generator.permutation(size)[:keep]) for _ in range(max(experts, 1))]
    return np.stack(rows) if experts else rows[0]


def cut(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Carry out cuts at once, in place."""
    sizes = {(name, dim): size for name, shape in shapes_of(model).items() for dim, size in enumerate(shape)}
    apply_plan(model, make_plan(cuts, sizes))

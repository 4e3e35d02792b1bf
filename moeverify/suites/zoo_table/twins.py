"""A model type at its real size, without weights, beside its shrunken twin with weights: the same kinds of modules and
of coupling classes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import numpy as np
from torch import nn

from moeverify.errors import MoEVerifyError
from moeverify.inspection.inspection import Inspection, inspect_source

Signature = tuple[str, frozenset[tuple[str, int, bool]]]


@dataclass(frozen=True)
class Twin:
    """A type at its real size.

    ``same``: whether its classes correspond to those of the shrunken model. ``note``: why they do not, where the sizes
    are from, or what failed. ``experts``: number in one MoE layer. ``seconds``: time to build, trace and solve.
    """

    parameters: int = 0
    moe_layers: int = 0
    experts: int = 0
    classes: int = 0
    seconds: float = 0.0
    same: bool = False
    note: str = ""


def twin(model_type: str) -> Twin:
    """Inspect a type at both sizes and compare. What fails is a row with the error, like everything in the table."""
    try:
        small = inspect_source(f"zoo:{model_type}")
        begin = time.perf_counter()
        full = inspect_source(f"zoo:{model_type}", full_size=True)
        seconds = time.perf_counter() - begin
    except MoEVerifyError as error:
        return Twin(note=str(error))
    return Twin(
        parameters=full.parameters,
        moe_layers=len(full.roles.layers),
        experts=max((len(layer.experts) for layer in full.roles.layers), default=0),
        classes=len(full.classes),
        seconds=round(seconds, 1),
        same=correspond(full, small),
        note="; ".join(full.loaded.notes),
    )


def starred(path: str) -> str:
    """A path without its numbers: ``model.layers.*.mlp``."""
    return re.sub(r"\d+", "*", path)


def kinds(model: nn.Module) -> set[tuple[str, str]]:
    """Every place for a module with the class that is there: a dense layer, a shared expert and each mixer show."""
    return {(starred(path), type(module).__name__) for path, module in model.named_modules()}


def in_one_run(positions: np.ndarray) -> bool:
    """Whether a unit's positions follow one another, as those of a head do, and those of gate and up do not."""
    return bool((np.diff(positions[0]) == 1).all())


def signatures(inspection: Inspection) -> set[Signature]:
    """Set of the kinds of classes.

    A kind is the role and, of every member, the path without numbers, the dimension, and whether a unit is one run
    there.
    """
    result = set()
    for item in inspection.classes:
        members = {(starred(m.parameter), m.dim, in_one_run(m.positions)) for m in item.coupling.members}
        result.add((item.role, frozenset(members)))
    return result


def correspond(full: Inspection, small: Inspection) -> bool:
    """Whether two sizes of a type have the same kinds of classes on the parameters that both have.

    A layer that only one of them has, such as the dense one that the zoo adds, is left out.
    """
    shared = set.intersection(*({starred(name) for name in one.couplings.trace.tensors} for one in (full, small)))
    first, second = ({_on(shared, signature) for signature in signatures(one)} for one in (full, small))
    return first - {None} == second - {None}


def _on(parameters: set[str], signature: Signature) -> Signature | None:
    role, members = signature
    left = frozenset(member for member in members if member[0] in parameters)
    return (role, left) if left else None

"""Check a plan from a file against the couplings of its base: members of a class must keep the same units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.couplings import trace_couplings
from moeverify.coupling.solving.solve import Member
from moeverify.errors import MoEVerifyError, PlanError
from moeverify.models.roles import find_roles

Keep = Mapping[tuple[str, int], np.ndarray]


def check_coupled(model: nn.Module, keep: Keep, example_inputs: Any) -> None:
    """Raise ``PlanError`` if tensors that are coupled keep other positions than each other.

    Weights of the right sizes at the wrong positions load, and compute something else. Exception: nothing is checked of
    a model that cannot be traced; a plan can only have been made for it by hand.
    """
    try:
        couplings = trace_couplings(model, example_inputs)
    except MoEVerifyError:
        return
    for pruning_class in classify(model, couplings.classes, find_roles(model), couplings):
        _check_class(pruning_class, keep)


def _check_class(pruning_class: PruningClass, keep: Keep) -> None:
    members = [m for m in pruning_class.coupling.members if (m.parameter, m.dim) in keep]
    if not members:
        return
    if not pruning_class.experts and any(keep[m.parameter, m.dim].ndim == 2 for m in members):
        # Experts that only the roles of whoever made the plan name: their slices are compared row by row.
        members = [m for m in members if keep[m.parameter, m.dim].ndim == 2]
        experts = min(len(keep[m.parameter, m.dim]) for m in members)
    else:
        experts = pruning_class.experts or 1
        members += [m for m in pruning_class.coupling.members if not m.buffer and (m.parameter, m.dim) not in keep]
    for expert in range(experts):
        first = _units(pruning_class, members[0], expert, keep)
        for member in members[1:]:
            if not np.array_equal(_units(pruning_class, member, expert, keep), first):
                raise PlanError(
                    f"the plan keeps other positions of dim {member.dim} of {member.parameter} than of dim "
                    f"{members[0].dim} of {members[0].parameter}, which go together; make the plan anew"
                )


def _units(pruning_class: PruningClass, member: Member, expert: int, keep: Keep) -> np.ndarray:
    """Units of a class that a member keeps; in the slice of ``expert`` if each expert keeps its own."""
    positions = pruning_class.of_expert(member, expert) if pruning_class.experts else member.positions
    kept = keep.get((member.parameter, member.dim))
    if kept is None:
        return np.ones(len(positions), dtype=bool)
    stays = np.isin(positions, kept[expert] if kept.ndim == 2 else kept)
    if not bool((stays == stays[:, :1]).all()):
        raise PlanError(
            f"the plan cuts dim {member.dim} of {member.parameter} through positions that go together; make it anew"
        )
    return np.asarray(stays[:, 0])

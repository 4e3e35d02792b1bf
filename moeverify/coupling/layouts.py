"""Roles that only a trace shows: experts side by side in matrices that the forward takes apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from moeverify.coupling.couplings import CouplingMap, trace_couplings
from moeverify.coupling.division import divide
from moeverify.models.expert_major import ExpertMajor, with_expert_major
from moeverify.models.roles import FoundRoles, Roles, find_roles


def traced_roles(
    model: nn.Module, example_inputs: Any, *, roles: Roles | FoundRoles | None = None, **arguments: Any
) -> tuple[FoundRoles, CouplingMap]:
    """Roles by names, by structure and by a trace, and the trace. ``arguments`` are those of ``trace_couplings``."""
    found = find_roles(model, roles)
    couplings = trace_couplings(model, example_inputs, roles=found, **arguments)
    return with_traced_layouts(model, found, couplings), couplings


def with_traced_layouts(model: nn.Module, roles: FoundRoles, couplings: CouplingMap | None) -> FoundRoles:
    """``roles`` with the routed experts that are found by what a forward divides, if it was traced."""
    return roles if couplings is None else with_expert_major(model, roles, expert_major(couplings))


def expert_major(couplings: CouplingMap) -> Iterator[ExpertMajor]:
    """Matrices that the coupling classes divide into parts, each with channels of its own.

    A class may divide in several ways: a gate and an up projection in one matrix are two blocks for each expert.
    """
    shapes = couplings.trace.shapes
    for coupling in couplings.classes:
        share = math.gcd(*(m.positions.shape[1] for m in coupling.members))
        for count in range(share, 1, -1):
            if share % count or any(m.buffer for m in coupling.members):
                continue
            division = divide(coupling, count, shapes, couplings.sums)
            if division.experts and len(division.in_turn) > 1:
                yield ExpertMajor(count, dict(sorted(division.in_turn)))

"""Roles that only a trace shows: experts side by side in matrices that the forward takes apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from moeverify.coupling.couplings import CouplingMap, trace_couplings
from moeverify.coupling.division import divide
from moeverify.models.expert_major import ExpertMajor, with_expert_major, without
from moeverify.models.roles import FoundRoles, MoELayer, Roles, find_roles


def traced_roles(
    model: nn.Module, example_inputs: Any, *, roles: Roles | FoundRoles | None = None, **arguments: Any
) -> tuple[FoundRoles, CouplingMap]:
    """Roles by names, by structure and by a trace, and the trace. ``arguments`` are those of ``trace_couplings``."""
    found = find_roles(model, roles)
    couplings = trace_couplings(model, example_inputs, roles=found, **arguments)
    return with_traced_layouts(model, found, couplings), couplings


def roles_of(model: nn.Module, example_inputs: Any, roles: Roles | None = None) -> FoundRoles:
    """Roles by names and by structure; the model is traced only where these show no experts."""
    found = find_roles(model, roles)
    return found if found.layers else traced_roles(model, example_inputs, roles=found)[0]


def with_traced_layouts(model: nn.Module, roles: FoundRoles, couplings: CouplingMap | None) -> FoundRoles:
    """``roles`` with the expert-major experts that a trace shows; unchanged without a trace.

    Experts by structure that the forward reads in another way are none. If none are found in a module that is named as
    experts, its note describes what the forward does with it.
    """
    if couplings is None:
        return roles
    channels = _channels_outside(roles, couplings)
    wrong = [layer for layer in roles.layers if any((name, 0) in channels for name in _by_a_bare_matrix(layer))]
    found = with_expert_major(model, without(roles, wrong), expert_major(couplings))
    return replace(found, notes=tuple(_with_cause(note, found, couplings) for note in found.notes))


def _by_a_bare_matrix(layer: MoELayer) -> tuple[str, ...]:
    """Stacks that are experts since a bare parameter scores them, whose sizes may be read the other way round."""
    return layer.stacks if layer.fused and not layer.routers and layer.router_parameters else ()


def _channels_outside(roles: FoundRoles, couplings: CouplingMap) -> set[tuple[str, int]]:
    """Dimensions that are coupled with a parameter outside of all MoE layers: channels, which count no experts."""
    around = tuple(f"{layer.name}." if layer.name else "" for layer in roles.layers)
    members = ([m for m in c.members if not m.buffer] for c in couplings.classes)
    outside = (c for c in members if any(not m.parameter.startswith(around) for m in c))
    return {(m.parameter, m.dim) for c in outside for m in c}


def _with_cause(note: str, roles: FoundRoles, couplings: CouplingMap) -> str:
    """A note on an unrecognised container, with the first of its dimensions that a line of the user's code freezes."""
    name = next((name for name in roles.unrecognised if note.startswith(f"{name} is named as experts")), None)
    cause = next((f for f in couplings.frozen if name and f.line and f.parameter.startswith(f"{name}.")), None)
    return note if cause is None else f"{note}; {cause}"


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

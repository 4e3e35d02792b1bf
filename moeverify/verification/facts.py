"""Metadata of a case: the model, what was pruned of it, and the isolation of its experts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from moeverify.checks.context import Context
from moeverify.checks.evidence.router_tensors import experts_now
from moeverify.checks.expert_isolation import isolation
from moeverify.coupling.classify import PruningClass
from moeverify.errors import TraceError
from moeverify.inspection.inspection import inspect_model
from moeverify.inspection.picture import layer_picture
from moeverify.models.roles import FoundRoles, Roles, find_roles
from moeverify.models.sources import LoadedModel
from moeverify.verification.expert_facts import removed_experts

NO_LAYER = "no MoE layer was found in this model; it is verified all the same"


def model_facts(model: nn.Module, notes: Sequence[str] = (), rules: Roles | None = None) -> dict[str, Any]:
    """Type, configuration, size and roles of a model as it was loaded; ``rules`` name the roles."""
    config = getattr(model, "config", None)
    roles = find_roles(model, rules)
    notes = list(notes)
    if not roles.layers:
        notes.append(NO_LAYER)
    return {
        "model_type": str(getattr(config, "model_type", type(model).__name__)),
        "config": config.to_dict() if config is not None and hasattr(config, "to_dict") else {},
        "parameters_before": sum(p.numel() for p in model.parameters()),
        "roles": roles_to_dict(roles),
        "notes": notes,
    }


def roles_to_dict(roles: FoundRoles) -> dict[str, list[str]]:
    """The paths of routed experts, routers and shared experts."""
    return {
        "experts": list(roles.experts),
        "routers": list(roles.routers),
        "shared_experts": list(roles.shared_experts),
    }


def outcome_facts(context: Context, *, groups: bool = False) -> dict[str, Any]:
    """Metadata of a subject's work: sizes by role, isolation, what is frozen; with ``groups`` its groups."""
    outcome = context.outcome
    facts: dict[str, Any] = {
        "roles": roles_to_dict(context.roles),
        "parameters_after": sum(p.numel() for p in context.pruned.parameters()),
        "sizes": sizes_by_role(context),
        "isolation": [one.to_dict() for one in isolation(context)],
        "frozen": list(outcome.frozen),
        "unknown_operations": list(outcome.unknown_operations),
    }
    if experts := removed_experts(context):
        facts["experts"] = experts
    facts |= context.facts
    if outcome.expansions is not None:
        facts["expansions"] = outcome.expansions
    if picture := coupling_picture(context):
        facts["picture"] = picture
    if groups:
        facts["groups"] = [describe_group(c) for c in outcome.classes]
    return facts


def coupling_picture(context: Context) -> str | None:
    """The coupling classes of the first MoE layer as SVG; ``None`` if there is no MoE layer or it cannot be traced."""
    if not context.roles.layers:
        return None
    try:
        inspection = inspect_model(LoadedModel(context.source, context.original, context.example_inputs), context.roles)
    except TraceError:
        return None
    return layer_picture(inspection)


def name_pattern(names: Iterable[str]) -> str:
    """One line for names that differ in their numbers: ``layers.0.mlp`` and ``layers.2.mlp`` make ``layers.*.mlp``."""
    first, *rest = dict.fromkeys(names)
    parts = re.split(r"(\d+)", first)
    for other in rest:
        parts = [a if a == b else "*" for a, b in zip(parts, re.split(r"(\d+)", other), strict=True)]
    return "".join(parts)


def sizes_by_role(context: Context) -> list[dict[str, Any]]:
    """Units before and after, one row for classes that are alike (same role, same place but for numbers)."""
    before = {n: p.shape for n, p in context.original.named_parameters()}
    after = {n: p.shape for n, p in context.pruned.named_parameters()}
    rows: dict[tuple[str, str, int, int], list[str]] = {}
    for c in context.outcome.classes:
        member = next((m for m in c.coupling.members if m.parameter in before and m.parameter in after), None)
        # A class that shares its dimension with another one has no size of its own to be read off.
        if member is None or member.positions.size != before[member.parameter][member.dim]:
            continue
        each, layer = member.positions.shape[1], context.roles.layer_of(c.where)
        if layer is not None and (member.parameter, member.dim) in c.in_turn:  # whole experts may have gone, too
            each = each * experts_now(context.pruned, layer) // len(layer.experts)
        left = after[member.parameter][member.dim] // max(each, 1)
        key = (c.role, re.sub(r"\d+", "0", c.where), c.coupling.size, left)
        rows.setdefault(key, []).append(c.where)
    return [
        {"role": role, "where": name_pattern(places), "classes": len(places), "before": size, "after": left}
        for (role, _, size, left), places in rows.items()
    ]


def describe_positions(positions: np.ndarray) -> str:
    """Positions ``[units, k]`` in a line: each column as ``start + step * u`` where it is, else listed.

    >>> describe_positions(np.array([[0, 32], [1, 33], [2, 34]]))
    'u, 32+u'
    """
    parts = []
    for column in positions.T.tolist():
        step = column[1] - column[0] if len(column) > 1 else 1
        if column == [column[0] + step * u for u in range(len(column))]:
            term = "u" if step == 1 else f"{step}u"
            parts.append(term if column[0] == 0 else f"{column[0]}+{term}")
        else:
            parts.append(f"[{' '.join(map(str, column))}]")
    return ", ".join(parts)


def describe_group(pruning_class: PruningClass) -> dict[str, Any]:
    """A group in a form that can be compared: its role, its units, and where each member holds unit ``u``."""
    return {
        "name": pruning_class.name,
        "units": pruning_class.coupling.size,
        "experts": pruning_class.experts,
        "members": {f"{m.parameter}:{m.dim}": describe_positions(m.positions) for m in pruning_class.coupling.members},
    }

"""A model that seems to be a mixture of experts, in a layout that is not recognised."""

from __future__ import annotations

from moeverify.checks.registry import Finding, inconclusive, skipped
from moeverify.models.roles import FoundRoles


def without_layers(roles: FoundRoles) -> Finding:
    """A finding on a model without known MoE layers: skipped, or inconclusive if modules are named as experts."""
    if not roles.unrecognised:
        return skipped("the model has no MoE layer")
    note = next(note for note in roles.notes if note.startswith(roles.unrecognised[0]))
    return inconclusive(
        f"{note}; hold each expert in a module of a list or their weights stacked as [experts, ...], or name other "
        "modules with --experts-pattern",
        unrecognised=list(roles.unrecognised),
    )

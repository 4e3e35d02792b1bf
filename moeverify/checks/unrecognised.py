"""A model that seems to be a mixture of experts, in a layout that is not recognised."""

from __future__ import annotations

from moeverify.checks.registry import Finding, inconclusive, skipped
from moeverify.models.roles import FoundRoles

# A model whose experts lie in a layout that nothing is known of looks like one that has none.
NO_LAYER = "no MoE layer was found; if the model has one, name its experts with --experts-pattern (`moeverify inspect`)"


def without_layers(roles: FoundRoles, *, explained_by: str = "") -> Finding:
    """A finding on a model without known MoE layers: skipped, or inconclusive if modules are named as experts.

    ``explained_by``: the check whose message says why they are not recognised, so that this one does not say it again.
    """
    if not roles.unrecognised:
        return skipped(NO_LAYER)
    if explained_by:
        return inconclusive(
            f"{roles.unrecognised[0]} is named as experts, in a layout that is not recognised: {explained_by} says why",
            unrecognised=list(roles.unrecognised),
        )
    note = next(note for note in roles.notes if note.startswith(roles.unrecognised[0]))
    return inconclusive(
        f"{note}; hold each expert in a module of a list or their weights stacked as [experts, ...], or name other "
        "modules with --experts-pattern",
        unrecognised=list(roles.unrecognised),
    )

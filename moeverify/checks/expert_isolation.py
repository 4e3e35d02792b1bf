"""``expert-isolation``"""

from __future__ import annotations

from typing import Any

import numpy as np

from moeverify.checks.context import Context
from moeverify.checks.registry import Finding, check, failed, passed, skipped
from moeverify.pruning.classes import PruningClass
from moeverify.roles import FoundRoles, MoELayer


def _inner(layer: MoELayer, pruning_class: PruningClass, roles: FoundRoles) -> bool:
    """Whether a class holds inner channels of the layer's experts, hidden channels aside."""
    touches = any(p.startswith(layer.container + ".") for p in pruning_class.coupling.parameters)
    return touches and pruning_class.role != "hidden"


def isolation_matrix(layer: MoELayer, classes: tuple[PruningClass, ...], roles: FoundRoles) -> np.ndarray:
    """``[experts, experts]``: channels of expert ``j`` that the groups rooted in expert ``i`` can remove."""
    count = len(layer.experts)
    matrix = np.zeros((count, count), dtype=np.int64)
    for pruning_class in classes:
        if not _inner(layer, pruning_class, roles):
            continue
        if layer.fused:
            confined = pruning_class.experts == count
            matrix += pruning_class.coupling.size * (np.eye(count, dtype=np.int64) if confined else 1)
            continue
        inside = {
            number: max(
                (m.positions.size for m in pruning_class.coupling.members if m.parameter.startswith(name + ".")),
                default=0,
            )
            for number, name in enumerate(layer.experts)
        }
        for i, mine in inside.items():
            for j, theirs in inside.items():
                if mine and theirs:
                    matrix[i, j] += theirs
    return matrix


def isolation(context: Context) -> list[dict[str, Any]]:
    """The matrix of every MoE layer, as data for the report."""
    return [
        {
            "layer": layer.name,
            "experts": list(layer.experts),
            "matrix": isolation_matrix(layer, context.outcome.classes, context.roles).tolist(),
        }
        for layer in context.roles.layers
    ]


@check("expert-isolation")
def expert_isolation(context: Context) -> Finding:
    """Proves that no group of the subject removes inner channels of two routed experts (G4).

    Reads the subject's own groups, so it says nothing of a subject that shows none; what such a subject did to the
    weights is judged by ``masked-equivalence``. Hidden channels are shared by all experts and do not count.
    """
    if not context.roles.layers:
        return skipped("the model has no MoE layer")
    if not context.outcome.classes:
        return skipped("the subject shows no groups; masked-equivalence judges its result")
    leaks = []
    empty = []
    for layer in isolation(context):
        matrix = np.array(layer["matrix"])
        for i, j in zip(*np.nonzero(matrix), strict=True):
            if i != j:
                leaks.append({"layer": layer["layer"], "from": layer["experts"][i], "to": layer["experts"][j]})
        empty += [e for e, size in zip(layer["experts"], matrix.diagonal(), strict=True) if not size]
    if leaks:
        first = leaks[0]
        return failed(f"pruning a channel of {first['from']} also removes channels of {first['to']}", leaks=leaks[:50])
    if empty:
        return failed(f"{empty[0]} has no group of its own", experts=empty[:50])
    return passed(f"{len(context.roles.experts)} experts in {len(context.roles.layers)} layers stand alone")

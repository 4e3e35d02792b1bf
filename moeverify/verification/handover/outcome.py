"""Report of a subject on its work as data: groups, claims of its plan, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.classes import CouplingClass, Member
from moeverify.errors import HandoverError
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Adjustment, Plan, Reason
from moeverify.subjects import Pruned
from moeverify.verification.handover.values import Reader, Writer

# Classes of ours that may be made from a document.
OWN = (PruningClass, CouplingClass, Member, Fold, Adjustment, Reason)
_FIELDS = ("classes", "expansions", "frozen", "unknown_operations", "of_trace", "expert_scores")
_CLAIMS = ("adjustments", "folds", "constants")


def describe_outcome(outcome: Pruned, writer: Writer) -> dict[str, Any]:
    """The outcome as JSON data. Of a plan it has only what checks read: adjustments, folds and constants."""
    data = {name: writer.write(getattr(outcome, name)) for name in _FIELDS}
    if outcome.plan is not None:
        data["plan"] = {name: writer.write(getattr(outcome.plan, name)) for name in _CLAIMS}
    return data


def read_outcome(data: Mapping[str, Any], arrays: Mapping[str, torch.Tensor]) -> Pruned:
    """The outcome that ``describe_outcome`` wrote. Raises ``HandoverError`` for any other document."""
    reader = Reader(arrays, OWN)
    result = {name: reader.read(data[name]) for name in _FIELDS}
    if not isinstance(result["expert_scores"], dict):
        raise HandoverError("expert_scores is not a mapping by layer")
    plan = None
    if data.get("plan") is not None:
        plan = Plan(cuts=(), keep={}, **{name: reader.read(data["plan"][name]) for name in _CLAIMS})
    return Pruned(**result, plan=plan)

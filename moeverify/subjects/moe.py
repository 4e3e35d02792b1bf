"""Our own pruner as a subject, called as the guide calls it."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from moeverify.pruning.pruner import MoEPruner
from moeverify.roles import Roles
from moeverify.subjects.protocol import Pruned


def make_moe_pruner(
    model: nn.Module,
    example_inputs: Any,
    pruning_ratio: float,
    *,
    round_to: int | None = 4,
    roles: Roles | None = None,
) -> MoEPruner:
    """The guide's basic call (G9)."""
    head = getattr(model, "lm_head", None)
    return MoEPruner(
        model,
        example_inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=pruning_ratio,
        ignored_layers=[head] if head is not None else [],
        round_to=round_to,
        roles=roles,
    )


def prune_moe(
    model: nn.Module,
    example_inputs: Any,
    *,
    pruning_ratio: float,
    seed: int,
    round_to: int | None = 4,
    roles: Roles | None = None,
) -> Pruned:
    """Our own pruner, called as the guide calls it; ``round_to`` and ``roles`` for models that need others."""
    torch.manual_seed(seed)
    pruner = make_moe_pruner(model, example_inputs, pruning_ratio, round_to=round_to, roles=roles)
    plan = pruner.step()
    couplings = pruner.DG.couplings
    frozen = {}
    for item in couplings.frozen:
        whole = f"{item.parameter} dim {item.dim}"
        frozen[whole] = {"where": whole, "operation": item.operation, "reason": item.reason}
    return Pruned(
        classes=pruner.DG.classes,
        plan=plan,
        expansions=pruner.DG.expansions,
        frozen=tuple(frozen.values()),
        unknown_operations=tuple(couplings.unknown_operations),
        of_trace=True,
    )

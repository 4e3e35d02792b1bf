"""Our own pruner as a subject, called as in the guides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from moeverify.coupling.classify import ROLES
from moeverify.models.left_alone import named_parts
from moeverify.models.roles import Roles
from moeverify.pruning.pruner import MoEPruner
from moeverify.subjects.protocol import Pruned


def make_moe_pruner(
    model: nn.Module,
    example_inputs: Any,
    pruning_ratio: float,
    *,
    round_to: int | None = 4,
    ignore: Sequence[str] = (),
    roles: Roles | None = None,
    ratios: Mapping[str, float] | None = None,
    importance: Any = None,
    expert_criterion: Any = None,
    calibration: Any = None,
) -> MoEPruner:
    """A ``MoEPruner`` as in the guides: L2 norms as importance, the output head ignored.

    ``ratios`` replace ``pruning_ratio`` for single roles. ``importance`` replaces the norms. ``ignore``: layers and
    parameters beside the head that stay. ``expert_criterion`` and ``calibration`` rank whole experts.
    """
    head = getattr(model, "lm_head", None)
    return MoEPruner(
        model,
        example_inputs,
        importance=importance or tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=pruning_ratio,
        ignored_layers=[*([] if head is None else [head]), *named_parts(model, ignore)],
        round_to=round_to,
        roles=roles,
        ratios=ratios,
        expert_criterion=expert_criterion,
        calibration=calibration,
    )


def prune_moe(
    model: nn.Module,
    example_inputs: Any,
    *,
    pruning_ratio: float,
    seed: int,
    round_to: int | None = 4,
    ignore: Sequence[str] = (),
    roles: Roles | None = None,
    ratios: Mapping[str, float] | None = None,
    importance: Any = None,
    expert_criterion: Any = None,
    calibration: Any = None,
) -> Pruned:
    """Prune with a ``MoEPruner`` as in the guides; see ``make_moe_pruner`` for the options."""
    torch.manual_seed(seed)
    pruner = make_moe_pruner(
        model,
        example_inputs,
        pruning_ratio,
        round_to=round_to,
        ignore=ignore,
        roles=roles,
        ratios=ratios,
        importance=importance,
        expert_criterion=expert_criterion,
        calibration=calibration,
    )
    classes = pruner.DG.classes  # as they are before; the graph follows what is pruned
    plan = pruner.step()
    couplings = pruner.DG.couplings
    frozen = {}
    for item in couplings.frozen:
        whole = f"{item.parameter} dim {item.dim}"
        frozen[whole] = {"where": whole, "operation": item.operation, "reason": item.reason}
    return Pruned(
        classes=classes,
        plan=plan,
        expansions=pruner.DG.expansions,
        frozen=tuple(frozen.values()),
        unknown_operations=tuple(couplings.unknown_operations),
        of_trace=True,
        expert_scores=pruner.expert_scores,
    )


def prune_moe_experts(
    model: nn.Module,
    example_inputs: Any,
    *,
    pruning_ratio: float,
    seed: int,
    round_to: int | None = 4,
    ignore: Sequence[str] = (),
    roles: Roles | None = None,
    importance: Any = None,
) -> Pruned:
    """Our own pruner on the routed experts' intermediate channels alone: most of the weights, little of the quality."""
    others = {role: 0 for role in ROLES if role != "routed_experts"}
    pruned = prune_moe(
        model,
        example_inputs,
        pruning_ratio=pruning_ratio,
        seed=seed,
        round_to=round_to,
        ignore=ignore,
        roles=roles,
        ratios=others,
        importance=importance,
    )
    assert pruned.plan is not None
    return replace(pruned, classes=tuple(cut.pruning_class for cut in pruned.plan.cuts))

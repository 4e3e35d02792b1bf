"""A user's request for a pruned checkpoint, and the pruner made from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.entries import EntryPath
from moeverify.errors import PruningRefused
from moeverify.models.left_alone import named_parts
from moeverify.models.roles import Roles
from moeverify.models.skeleton import has_config
from moeverify.models.sources import LoadedModel
from moeverify.pruning.checkpoint.folders import copy_companions
from moeverify.pruning.checkpoint.saved import Progress
from moeverify.pruning.choice.importances import importance_named
from moeverify.pruning.choice.request import DEFAULT_RATIO
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.pruner import MoEPruner
from moeverify.pruning.step.ahead import Reading

# Gets a configuration and a plan's new entries; returns notes, or raises.
PlanJudge = Callable[[Mapping[str, Any], Mapping[EntryPath, int]], Sequence[str]]


@dataclass(frozen=True, eq=False)
class PruneArguments:
    """The arguments of ``prune_checkpoint`` that decide what is pruned; ``more`` go to ``MoEPruner`` as they are."""

    pruning_ratio: float = DEFAULT_RATIO
    ratios: Mapping[str, Any] | None = None
    importance: Any = "magnitude"
    round_to: int | None = None
    ignored_layers: Sequence[str] = ("lm_head",)
    roles: Roles | None = None
    seed: int = 0
    save_statistics: str | Path | None = None
    check_plan_for: PlanJudge | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def made_importance(self) -> Any:
        """The importance itself, where it was named."""
        return importance_named(self.importance) if isinstance(self.importance, str) else self.importance

    def pruner(self, loaded: LoadedModel, progress: Progress) -> MoEPruner:
        """The pruner of a model, from a fixed seed on."""
        torch.manual_seed(self.seed)
        progress("trace")
        return MoEPruner(
            loaded.model,
            loaded.example_inputs,
            importance=self.made_importance(),
            pruning_ratio=self.pruning_ratio,
            ratios=self.ratios,
            round_to=self.round_to,
            roles=self.roles,
            ignored_layers=_ignored(loaded.model, self.ignored_layers),
            **self.more,
        )

    def plan(self, source: str, pruner: MoEPruner, progress: Progress, reading: Reading | None = None) -> Plan:
        """The plan of a pruner. Raises ``PruningRefused`` if it prunes nothing."""
        progress("plan")
        plan = pruner.plan(reading=reading)
        if self.save_statistics is not None and pruner.expert_statistics is not None:
            pruner.expert_statistics.write(self.save_statistics)
        if not plan.keep:
            because = f" ({plan.adjustments[0]})" if plan.adjustments else ""
            raise PruningRefused(f"nothing of {source} can be pruned{because}; `moeverify inspect {source}` says why")
        return plan

    def judged(self, model: nn.Module, plan: Plan) -> tuple[str, ...]:
        """Notes of ``check_plan_for`` on the configuration and the plan's new entries. Raises what it raises."""
        if self.check_plan_for is None or not has_config(model):
            return ()
        return tuple(self.check_plan_for(model.config.to_dict(), plan.entries))


def _ignored(model: nn.Module, paths: Sequence[str]) -> list[nn.Module | nn.Parameter]:
    """The layers and parameters of these paths; the usual head may be missing. Raises ``UsageError`` for others."""
    return named_parts(model, [path for path in paths if path != "lm_head" or hasattr(model, "lm_head")])


def bring_companions(origin: Path, folder: Path) -> list[str]:
    """Copy what lies beside the weights; return a note, and warn, for each file that was left out."""
    notes = [
        f"{name} was not copied: it is a link out of the folder, or no regular file"
        for name in copy_companions(origin, folder)
    ]
    for note in notes:
        warnings.warn(note, stacklevel=5)
    return notes

"""The MoE-safe pruner: a plan first, refused by name if it cannot be honoured, then carried out as a whole."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from moeverify.coupling.trace import call_model
from moeverify.errors import BoundaryRefused, PruningRefused, UsageError
from moeverify.pruning.apply import apply_plan
from moeverify.pruning.classes import ROLES, PruningClass
from moeverify.pruning.configuration import (
    Adjustment,
    ConfigUpdate,
    Expression,
    Probe,
    apply_update,
    express,
    has_config,
    plan_update,
    shapes_of,
    wanted_shapes,
)
from moeverify.pruning.graph import MAX_EXPANSIONS, MoEDependencyGraph
from moeverify.pruning.plan import Cut, Plan, make_plan
from moeverify.pruning.scores import score_units
from moeverify.roles import Roles


def check_ratio(ratio: float) -> float:
    """A pruning ratio strictly between 0 and 1. Raises ``UsageError`` otherwise."""
    if not isinstance(ratio, int | float) or not 0.0 < ratio < 1.0:
        raise UsageError(f"the pruning ratio must lie strictly between 0 and 1, not {ratio!r}")
    return float(ratio)


def kept_units(size: int, ratio: float, round_to: int | None = None) -> int:
    """How many of ``size`` units stay: as Torch-Pruning counts, then down to a multiple of ``round_to``.

    >>> kept_units(32, 0.5), kept_units(30, 0.25, round_to=4)
    (16, 20)
    """
    kept = int(size * (1 - ratio) + 1e-9)
    return kept - kept % round_to if round_to else kept


class MoEPruner:
    """Structural pruning of a Mixture-of-Experts model: hidden channels, expert and MLP channels, heads.

    Arguments are those of ``tp.pruner.BasePruner``; ``global_pruning`` must be ``False`` (every class is ranked by
    itself). ``ratios`` overrides ``pruning_ratio`` by role (``hidden``, ``routed_experts``, ``shared_experts``,
    ``dense_mlp``, ``heads``, ``other``); 0 leaves a role alone. ``max_expansions`` bounds one group. The default
    importance is ``GroupMagnitudeImportance(p=2, group_reduction="mean")``.

    Example::

        pruner = MoEPruner(model, {"input_ids": ids}, pruning_ratio=0.5, ignored_layers=[model.lm_head], round_to=4)
        pruner.step()
        model.save_pretrained(folder)

    Raises ``UsageError`` for arguments that cannot be meant, ``PruningRefused`` (from ``step``, before anything is
    changed) for a request that the model or its configuration cannot express.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        importance: Callable | None = None,
        global_pruning: bool = False,
        pruning_ratio: float = 0.5,
        max_pruning_ratio: float = 1.0,
        ignored_layers: Sequence[nn.Module | nn.Parameter] | None = None,
        round_to: int | None = None,
        forward_fn: Callable | None = None,
        output_transform: Callable | None = None,
        *,
        ratios: Mapping[str, float] | None = None,
        roles: Roles | None = None,
        max_expansions: int = MAX_EXPANSIONS,
    ) -> None:
        if global_pruning:
            raise UsageError("global_pruning=True is not offered: every class is ranked by itself")
        self.model = model
        self.example_inputs = example_inputs
        self.importance = importance or tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
        self.pruning_ratio = min(check_ratio(pruning_ratio), max_pruning_ratio)
        self.ratios = dict(ratios or {})
        if unknown := set(self.ratios) - set(ROLES):
            raise UsageError(f"unknown role {sorted(unknown)[0]!r} in ratios; the roles are {', '.join(ROLES)}")
        for role, ratio in self.ratios.items():
            if ratio != 0 and not 0 < ratio < 1:
                raise UsageError(f"the ratio of {role} must lie in [0, 1), not {ratio!r}")
        if round_to is not None and round_to < 1:
            raise UsageError(f"round_to must be a positive number, not {round_to!r}")
        self.round_to = round_to
        ignored = list(ignored_layers or [])
        self.ignored_layers = [x for x in ignored if isinstance(x, nn.Module)]
        self.forward_fn = forward_fn
        self.output_transform = output_transform
        self.last_plan: Plan | None = None
        self.DG = MoEDependencyGraph(max_expansions, roles).build_dependency(
            model,
            example_inputs,
            forward_fn=forward_fn,
            output_transform=output_transform,
            ignored_params=[x for x in ignored if isinstance(x, nn.Parameter)],
        )

    def ratio_of(self, pruning_class: PruningClass) -> float:
        """The ratio asked for a class, by its role."""
        return self.ratios.get(pruning_class.role, self.pruning_ratio)

    def count_of(self, pruning_class: PruningClass) -> int | None:
        """How many units a class is to keep, or ``None`` if it is left alone.

        At least one unit stays; a class of one unit is left alone. Heads are counted whole and never rounded.
        """
        ratio, size = self.ratio_of(pruning_class), pruning_class.coupling.size
        if ratio == 0 or size < 2 or self.DG.is_ignored(pruning_class, self.ignored_layers):
            return None
        is_heads = pruning_class.role == "heads"
        kept = kept_units(size, ratio, None if is_heads else self.round_to)
        if is_heads:
            kept = max(kept, 1)
        if kept < 1:
            raise PruningRefused(
                f"ratio {ratio} with round_to={self.round_to} would remove all {size} units of {pruning_class.name}; "
                "lower one of them"
            )
        return None if kept == size else kept

    def cut_of(self, pruning_class: PruningClass, kept: int) -> Cut:
        """The ``kept`` units of a class with the best scores."""
        scores = score_units(self.model, pruning_class, self.importance)
        best = scores.topk(kept, dim=-1).indices.sort(dim=-1).values
        return Cut(pruning_class, best.numpy().astype(np.int64))

    def plan(self) -> Plan:
        """What ``step`` would remove; nothing is changed.

        Raises ``PruningRefused`` if the configuration cannot say what was asked by role.
        """
        self.DG.expansions = 0
        counts = {c: kept for c in self.DG.classes if (kept := self.count_of(c)) is not None}
        adjustments = self._stopped_at_boundary(counts)
        expression = self._express(counts)
        if expression is not None:
            counts = dict(expression.counts)
        cuts = [self.cut_of(c, kept) for c, kept in counts.items() if kept < c.coupling.size]
        shapes = shapes_of(self.model)
        sizes = {(name, dim): size for name, shape in shapes.items() for dim, size in enumerate(shape)}
        adjustments += () if expression is None else expression.adjustments
        return make_plan(cuts, sizes, adjustments)

    def _stopped_at_boundary(self, counts: dict[PruningClass, int]) -> tuple[Adjustment, ...]:
        """Expand every group; those that would take two routed experts are dropped from ``counts`` and told (G4)."""
        stopped = []
        for pruning_class in self.DG.classes:
            try:
                self.DG.group_of(pruning_class)
            except BoundaryRefused as error:
                if (wanted := counts.pop(pruning_class, None)) is not None:
                    stopped.append(Adjustment(pruning_class, wanted, pruning_class.coupling.size, str(error)))
        return tuple(stopped)

    def _express(self, counts: dict[PruningClass, int]) -> Expression | None:
        """The counts that the model's configuration can say; ``None`` if it has no configuration."""
        self._update: ConfigUpdate | None = None
        if not has_config(self.model):
            return None
        probe = Probe(self.model)
        named = [c for c in counts if c.role in self.ratios]
        expression = express(probe, counts, round_to=self.round_to, named=named)
        wanted = wanted_shapes(probe.base, expression.counts)
        self._update = plan_update(probe, expression.entries, wanted)
        return expression

    @torch.no_grad()
    def step(self) -> Plan:
        """Prune once, all or nothing, and bring configuration and module attributes in step.

        Raises ``PruningRefused`` before anything is changed.
        """
        plan = self.plan()
        if not plan.cuts:
            because = f" ({plan.adjustments[0]})" if plan.adjustments else ""
            raise PruningRefused(
                f"nothing can be pruned: every dimension is frozen, ignored or left alone{because}; "
                "`moeverify inspect` says by what"
            )
        for adjustment in plan.adjustments:
            warnings.warn(str(adjustment), stacklevel=2)
        if self._update is not None:
            apply_plan(self.model, plan)
            apply_update(self.model, self._update)
        else:
            self._rehearse(plan)
            apply_plan(self.model, plan)
        self.last_plan = plan
        return plan

    def _rehearse(self, plan: Plan) -> None:
        """Without a configuration to rebuild from, a copy is pruned first: sizes hard-coded in ``forward`` show."""
        rehearsal = copy.deepcopy(self.model)
        apply_plan(rehearsal, plan)
        try:
            if self.forward_fn is not None:
                self.forward_fn(rehearsal, self.example_inputs)
            else:
                call_model(rehearsal, self.example_inputs, use_cache=False)
        except Exception as error:
            raise PruningRefused(
                f"the model does not run with the pruned sizes ({type(error).__name__}: {error}); its forward has a "
                "size written into it: leave that role out with `ratios`"
            ) from error

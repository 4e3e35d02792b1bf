"""The MoE-safe pruner: a plan first, refused by name if it cannot be honoured, then carried out as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning import ops
from torch_pruning.dependency import Group
from torch_pruning.pruner.algorithms.scheduler import linear_scheduler

from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.models.offload import fetch_offloaded
from moeverify.models.roles import Roles
from moeverify.models.wrappers import refuse_old_release, unwrapped
from moeverify.pruning.arguments import check_choices, expert_request, heads_given, ignored_in, warn_of_old_names
from moeverify.pruning.choice.candidates import Selection
from moeverify.pruning.choice.importances import calibrated
from moeverify.pruning.choice.request import DEFAULT_RATIO, channel_ratio, make_request
from moeverify.pruning.choice.rounding import aligned
from moeverify.pruning.configuration import described
from moeverify.pruning.experts.scorer import ExpertScorer
from moeverify.pruning.experts.statistics import ExpertStatistics
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.walk import MAX_EXPANSIONS
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.afterwards import catch_up
from moeverify.pruning.step.ahead import Reading, score_ahead
from moeverify.pruning.step.by_hand import prune_width
from moeverify.pruning.step.carry_out import carry_out
from moeverify.pruning.step.heads import head_counts_after, note_head_counts
from moeverify.pruning.step.interactive import planned_groups
from moeverify.pruning.step.prepare import Prepared, prepare, probe_of


class MoEPruner:
    """Structural pruning of a Mixture-of-Experts model: hidden channels, expert and MLP channels, heads, whole experts.

    The arguments up to ``output_transform`` are those of ``tp.pruner.BasePruner``, in its order and with its meaning;
    docs/from-torch-pruning.md lists the few differences. The default importance is ``GroupMagnitudeImportance(p=2,
    group_reduction="mean")``.

    Args:
        ratios: ratios by role that override ``pruning_ratio``; 0 leaves a role alone. Roles are ``hidden``,
            ``routed_experts``, ``shared_experts``, ``dense_mlp``, ``heads``, ``other``, or another usual word for one.
            The role ``experts`` is whole routed experts, a ratio or one by MoE layer. Asked for without a
            ``pruning_ratio``, it leaves channels alone.
        expert_criterion: what ranks whole experts: a name (docs/remove-experts.md), or a function.
        calibration: a ``Calibration``, saved statistics or batches, for criteria that need data.
        prune_shared_experts: ``False`` leaves shared experts' inner channels alone.
        expert_ranking: ``"each"`` (the default without ``global_pruning``) ranks the channels of each routed expert by
            themselves. ``"together"`` ranks those of a layer's listed experts, which may leave them of unequal width.
        roles: names of experts, routers and shared experts where the usual ones do not find them.
        max_expansions: bound on the steps while one group is built.

    Raises:
        UsageError: arguments that cannot be meant.
        PruningRefused: the model or its configuration cannot express the request; from ``step``, before anything is
            changed.

    Example::

        pruner = MoEPruner(model, {"input_ids": ids}, pruning_ratio=0.5, ignored_layers=[model.lm_head], round_to=4)
        pruner.step()
        model.save_pretrained(folder)

    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        importance: Callable[[Group], torch.Tensor | None] | None = None,
        global_pruning: bool = False,
        pruning_ratio: float = DEFAULT_RATIO,
        pruning_ratio_dict: Mapping[Any, float] | None = None,
        max_pruning_ratio: float = 1.0,
        iterative_steps: int = 1,
        iterative_pruning_ratio_scheduler: Callable[[float, int], Sequence[float]] = linear_scheduler,
        ignored_layers: Sequence[Any] | None = None,
        round_to: int | None = None,
        isomorphic: bool = False,
        in_channel_groups: Mapping[nn.Module, int] | None = None,
        out_channel_groups: Mapping[nn.Module, int] | None = None,
        num_heads: Mapping[nn.Module, int] | None = None,
        prune_num_heads: bool = False,
        prune_head_dims: bool = True,
        head_pruning_ratio: float = 0.0,
        head_pruning_ratio_dict: Mapping[nn.Module, float] | None = None,
        customized_pruners: Mapping[Any, tp.pruner.function.BasePruningFunc] | None = None,
        unwrapped_parameters: Any = None,
        root_module_types: Sequence[type] = (ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_LSTM),
        forward_fn: Callable | None = None,
        output_transform: Callable | None = None,
        channel_groups: Mapping[nn.Module, int] | None = None,
        ch_sparsity: float | None = None,
        ch_sparsity_dict: Mapping[Any, float] | None = None,
        *,
        ratios: Mapping[str, Any] | None = None,
        expert_criterion: str | Callable | None = None,
        calibration: Any = None,
        prune_shared_experts: bool = True,
        expert_ranking: str | None = None,
        roles: Roles | None = None,
        max_expansions: int = MAX_EXPANSIONS,
    ) -> None:
        warn_of_old_names(ch_sparsity=ch_sparsity, ch_sparsity_dict=ch_sparsity_dict, channel_groups=channel_groups)
        check_choices(iterative_steps, expert_ranking)
        pruning_ratio = channel_ratio(pruning_ratio, ratios or {}) if ch_sparsity is None else ch_sparsity
        self.model = model = unwrapped(model)
        refuse_old_release(model)
        self.example_inputs = example_inputs = fetch_offloaded(model, example_inputs)
        self.example = Example(example_inputs, forward_fn, output_transform)
        self.importance = calibrated(importance, model, calibration, roles) or tp.importance.GroupMagnitudeImportance(
            p=2, group_reduction="mean"
        )
        self.round_to = aligned(model, round_to)
        self.root_module_types = tuple(root_module_types)
        self.forward_fn = forward_fn
        self.output_transform = output_transform
        self.ignored_layers, self.ignored_params = ignored_in(model, list(ignored_layers or []))
        self.in_channel_groups = dict(in_channel_groups or {})
        self.out_channel_groups = {**(out_channel_groups or {}), **(channel_groups or {})}
        self.num_heads = heads_given(num_heads, model)
        held = self.num_heads if prune_head_dims and not prune_num_heads else ()
        self._graph: dict[str, Any] = {
            "max_expansions": max_expansions,
            "roles": roles,
            "heads_whole": True,
            "held_heads": held,
        }
        self._traced_with = {
            "forward_fn": forward_fn,
            "output_transform": output_transform,
            "unwrapped_parameters": unwrapped_parameters,
            "customized_pruners": customized_pruners,
            "ignored_layers": self.ignored_layers,
            "ignored_params": self.ignored_params,
        }
        self.DG = self._traced()
        if self.num_heads and prune_head_dims and prune_num_heads and pruning_ratio:
            warnings.warn(
                "prune_num_heads removes whole heads; the dimensions inside of heads stay, although prune_head_dims is "
                "set: a second pruner with prune_num_heads=False cuts them",
                stacklevel=2,
            )
        self.iterative_steps = iterative_steps
        self.current_step = 0
        self.last_plan: Plan | None = None
        self._experts_went = False
        self.request = make_request(
            self.DG,
            steps=iterative_steps,
            scheduler=iterative_pruning_ratio_scheduler,
            pruning_ratio=pruning_ratio,
            by_role=ratios or {},
            by_layer=pruning_ratio_dict or ch_sparsity_dict or {},
            prune_shared_experts=prune_shared_experts,
            max_ratio=max_pruning_ratio,
            num_heads=self.num_heads,
            prune_num_heads=prune_num_heads,
            head_ratio=head_pruning_ratio,
            head_ratios=head_pruning_ratio_dict or {},
            global_pruning=global_pruning,
            isomorphic=isomorphic,
            expert_ranking=expert_ranking,
        )
        self.pruning_ratio = float(pruning_ratio)
        self._experts = expert_request(
            self.request,
            expert_criterion,
            calibration,
            self.example,
            scheduler=iterative_pruning_ratio_scheduler,
            steps=iterative_steps,
            ignored=[*self.ignored_layers, *self.ignored_params],
        )
        self._selection = Selection(
            self.DG,
            self.request,
            self.importance,
            ignored=set(self.ignored_layers),
            root_types=self.root_module_types,
            inputs=self.in_channel_groups,
            outputs=self.out_channel_groups,
        )

    def estimate_importance(self, group: Group) -> torch.Tensor | None:
        """The importance's scores of a group."""
        return self.importance(group)

    def pruning_history(self) -> list:
        """History of what was pruned so far, for ``load_pruning_history`` on an unpruned model.

        Raises ``UsageError`` if whole experts were removed, which Torch-Pruning's histories cannot express.
        """
        if self._experts_went:
            raise UsageError(
                "a pruning history has no entry for whole experts; keep the plan instead (prune --save-model writes "
                "pruning_plan.json, and apply-plan carries it out again)"
            )
        return self.DG.pruning_history()

    def load_pruning_history(self, pruning_history: Sequence[Sequence[Any]]) -> None:
        """Prune again what a history lists, configuration and constants included."""
        probe = probe_of(self.DG)
        self.DG.load_pruning_history(pruning_history)
        if probe is not None:
            catch_up(self.model, probe, self.example, self.DG.found_roles)

    def reset(self) -> None:
        """Start counting steps anew."""
        self.current_step = 0

    def update_regularizer(self) -> None:
        """Nothing to bring up to date: this pruner has no regulariser of its own."""

    def regularize(self, model: nn.Module, loss: Any = None) -> Any:
        """No regulariser of its own; a subclass may add to the gradients here."""

    def _downstream_node_as_root_if_attention(self, group: Group) -> Group:
        return group  # asked for by Torch-Pruning's OBDC importance; groups here need no other root

    def plan(self, *, reading: Reading | None = None) -> Plan:
        """The plan that ``step`` would carry out; nothing is changed.

        ``reading`` orders the reading of weights that stay in files.

        Raises ``PruningRefused`` if the configuration cannot express what was asked for by name.
        """
        return self._prepare(max(self.current_step, 1), reading).plan

    def _prepare(self, step: int, reading: Reading | None = None) -> Prepared:
        own = type(self).estimate_importance is not MoEPruner.estimate_importance
        self._selection.importance = self.estimate_importance if own else self.importance
        experts = None if self._experts is None else self._experts.at(step)
        if reading is not None:
            experts = score_ahead(self._selection, step, experts, self.example, reading)
        return prepare(self._selection, step, self.round_to, self.example, self.num_heads, experts)

    @property
    def expert_statistics(self) -> ExpertStatistics | None:
        """Statistics gathered on the calibration data, for ``write``; ``None`` before a plan or without data."""
        score = None if self._experts is None else self._experts.score
        return score.statistics if isinstance(score, ExpertScorer) else None

    @property
    def expert_scores(self) -> dict[str, dict[str, Any]]:
        """Criterion, scores and calibration tokens of every expert, by MoE layer; empty before experts were ranked."""
        score = None if self._experts is None else self._experts.score
        return score.ranked() if isinstance(score, ExpertScorer) else {}

    @torch.no_grad()
    def step(self, interactive: bool = False) -> Any:
        """Prune once, all or nothing; configuration and module attributes follow. Returns the plan.

        With ``interactive`` it returns an iterator of groups instead, and each is pruned by ``group.prune()``. The
        configuration follows when the loop over them ends. If the groups are collected before the first is pruned, it
        follows with the last of them, so none may be left out. Raises ``PruningRefused`` before anything is changed.
        """
        if self.current_step >= self.iterative_steps:
            warnings.warn(
                f"all {self.iterative_steps} iterative steps are done; nothing is pruned (`reset` starts anew)",
                stacklevel=2,
            )
            return iter(()) if interactive else self.last_plan
        self.current_step += 1
        try:
            if interactive and self._experts is not None:
                raise UsageError("whole experts have no pruning group; use step() without interactive")
            prepared = self._prepare(self.current_step)
            self._check(prepared)
        except Exception:
            self.current_step -= 1
            raise
        plan = prepared.plan
        for adjustment in plan.adjustments:
            warnings.warn(str(adjustment), stacklevel=2)
        if not plan.cuts and not plan.experts:
            return iter(()) if interactive else plan
        if interactive:
            return planned_groups(self.DG, prepared, self.example, self.num_heads, self._remember)
        heads = head_counts_after(self.num_heads, plan, self.DG)
        carry_out(self.model, plan, prepared.update, self.DG.own_functions())
        self.DG.carried_out(plan)
        note_head_counts(self.num_heads, self.model, heads)
        self._remember(plan)
        self._experts_went |= bool(plan.experts)
        if plan.experts and self.current_step < self.iterative_steps:
            self._trace_again(plan)
        return plan

    def _traced(self) -> MoEDependencyGraph:
        """A graph of the model as it is."""
        return MoEDependencyGraph(**self._graph).build_dependency(self.model, self.example_inputs, **self._traced_with)

    def _trace_again(self, plan: Plan) -> None:
        """Go on with a graph of the model as it is: experts moved up, and their tensors have other names and sizes."""
        self.DG = self._traced()
        self._selection.move_to(self.DG, plan.experts)

    def _check(self, prepared: Prepared) -> None:
        plan = prepared.plan
        if plan.cuts or plan.experts:
            return
        cause = described(plan.adjustments) or self._selection.cause(self.current_step)
        if self.last_plan is None and not self._cuts_later():
            raise PruningRefused(f"nothing can be pruned: {cause}; `moeverify inspect` shows all that is frozen")
        step = f"step {self.current_step} of {self.iterative_steps}"
        warnings.warn(f"nothing is pruned in {step}: {cause}", stacklevel=4)

    def _cuts_later(self) -> bool:
        """Whether a later iterative step cuts something: the first ones may ask for less than a single channel."""
        if self.current_step == self.iterative_steps:
            return False
        later = self._prepare(self.iterative_steps).plan
        return bool(later.cuts or later.experts)

    def _remember(self, plan: Plan) -> None:
        """Remember the plan that was carried out last."""
        self.last_plan = plan

    def manual_prune_width(
        self, layer: nn.Module, pruning_fn: Callable, pruning_ratios_or_idxs: float | Sequence[int]
    ) -> None:
        """Prune a share of a layer's channels (the least important ones), or the given ones, at once.

        Raises ``PruningRefused``, before anything is changed, if the configuration cannot express the result.
        """
        prune_width(self.DG, self.example, self.importance, layer, pruning_fn, pruning_ratios_or_idxs)

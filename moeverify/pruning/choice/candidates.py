"""The classes that one step may cut, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_pruning.dependency import Group

from moeverify.coupling.classify import PruningClass, embedding_weights, is_attention, is_hidden
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.errors import BoundaryRefused, PruningRefused, UsageError
from moeverify.models.module_lists import renamed
from moeverify.pruning.choice.channel_groups import group_channels, mean_of_groups
from moeverify.pruning.choice.ranking import Candidate
from moeverify.pruning.choice.request import EACH, Request
from moeverify.pruning.choice.rounding import kept_units
from moeverify.pruning.choice.scores import score_classes
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.graph.roots import has_root, is_ignored, signature, structure
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.plan import Adjustment, Reason


@dataclass(frozen=True, eq=False)
class _Unscored:
    """A class that may be pruned: as the model has it, and with its channel groups joined."""

    single: PruningClass
    grouped: PruningClass
    ratio: float
    ranked_with: Hashable


def _key(pruning_class: PruningClass) -> tuple:
    """Key of a class across steps.

    For routed experts it omits positions per unit, since those of expert-major experts change with the number of
    experts.
    """
    if pruning_class.role == "routed_experts":
        return tuple((m.parameter, m.dim) for m in pruning_class.coupling.members)
    return signature(pruning_class)


class Selection:
    """Chooses classes by a request, and remembers how large they were before the first step."""

    def __init__(
        self,
        graph: MoEDependencyGraph,
        request: Request,
        importance: Callable[[Group], torch.Tensor | None],
        *,
        ignored: set[nn.Module],
        root_types: tuple[type, ...],
        inputs: Mapping[nn.Module, int],
        outputs: Mapping[nn.Module, int],
    ) -> None:
        self.graph = graph
        self.request = request
        self.importance = importance
        self._ignored_layers = list(ignored)
        self.ignored = graph.ignored_modules(self._ignored_layers)
        self.root_types = root_types
        self.inputs, self.outputs = inputs, outputs
        self._initial: dict[Any, int] = {}

    def move_to(self, graph: MoEDependencyGraph, cuts: Sequence[ExpertCut]) -> None:
        """Continue with ``graph``, built again after whole experts were removed.

        Sizes before the first step are kept under the new names.
        """
        self.graph = graph
        self.ignored = graph.ignored_modules(self._ignored_layers)
        moved = {}
        for key, size in self._initial.items():
            names = [(renamed(name, cuts), *rest) for name, *rest in key]
            if all(name is not None for name, *_ in names):
                moved[tuple(names)] = size
        self._initial = moved

    def candidates(self, step: int) -> tuple[list[Candidate], list[Adjustment]]:
        """Candidates that ``step`` may cut, and adjustments for classes stopped by the expert boundary or a frozen
        role.

        Raises ``PruningRefused`` if a layer was asked for by name whose channels are frozen, or if a group's expansion
        overflows.
        """
        result: list[_Unscored] = []
        stopped: list[Adjustment] = []
        reached: set[nn.Module] = set()
        for pruning_class in self.graph.classes:
            outputs = self.graph.nodes.output_layers(pruning_class.coupling)
            reached.update(outputs)
            ratio = self.request.ratio(pruning_class, outputs, step)
            if ratio == 0 or not self._may_cut(pruning_class):
                continue
            try:
                self.graph.must_expand(pruning_class)
            except BoundaryRefused as error:  # it would take two routed experts along: left alone and told
                size = pruning_class.coupling.size
                stopped.append(Adjustment(pruning_class, kept_units(size, ratio), size, Reason(str(error))))
                continue
            grouped = group_channels(pruning_class, self.graph, self.inputs, self.outputs)
            if grouped.coupling.size > 1:
                key = self._ranked_with(grouped, outputs)
                result.append(_Unscored(pruning_class, grouped, ratio, key))
        self._refuse_frozen(reached, step)
        self._refuse_missing_roles(step)
        return self._scored(result), [*stopped, *self._frozen_roles(step)]

    def _ranked_with(self, pruning_class: PruningClass, outputs: list[nn.Module]) -> Hashable:
        """The key of a class's ranking scope. Raises ``PruningRefused`` for experts that cannot be ranked together."""
        layer = self.graph.found_roles.layer_of(pruning_class.where)
        shape = structure(self.graph.nodes, pruning_class)
        key = self.request.ranked_with(pruning_class, outputs, shape, layer)
        if pruning_class.experts and key is not None and key[0] == "experts":
            raise PruningRefused(
                f"experts cannot be ranked together in {pruning_class.where}: ranking them together decides how many "
                "channels each of them keeps, and one tensor holds them all, with as many for each; rank them each by "
                f"itself (expert_ranking={EACH!r})"
            )
        return key

    def _scored(self, unscored: list[_Unscored]) -> list[Candidate]:
        """The classes with their scores, computed together."""
        candidates = []
        scores = score_classes(self.graph, [one.single for one in unscored], self.importance)
        for one, given in zip(unscored, scores, strict=True):
            initial = self._initial.setdefault(_key(one.grouped), one.grouped.coupling.size)
            candidates.append(
                Candidate(one.grouped, mean_of_groups(given, one.grouped), initial, one.ratio, one.ranked_with)
            )
        return candidates

    def _may_cut(self, pruning_class: PruningClass) -> bool:
        return (
            pruning_class.coupling.size > 1
            and has_root(self.graph.nodes, pruning_class, self.root_types)
            and not is_ignored(self.graph.nodes, pruning_class, self.ignored, self.graph.ignored_params)
        )

    def _refuse_frozen(self, reached: set[nn.Module], step: int) -> None:
        """A layer that the user gave a ratio of its own must have channels to remove."""
        for scope in self.request.scopes:
            prunable = [m for m in scope.layers if isinstance(m, self.root_types)]
            if scope.schedule[step] == 0 or not prunable or not reached.isdisjoint(scope.layers):
                continue
            function = self.graph.get_pruner_of_module(prunable[0]).prune_out_channels
            try:
                self.graph.get_pruning_group(prunable[0], function, [0])
                reason = "they are the model's own outputs"
            except (PruningRefused, UsageError) as error:
                reason = str(error)
            raise PruningRefused(f"the channels of {self.graph.name_of(prunable[0])} cannot be pruned: {reason}")

    def _refuse_missing_roles(self, step: int) -> None:
        """A role that the user gave a ratio of its own, and that the model has, must have channels to remove."""
        asked = {role for role, schedule in self.request.by_role.items() if schedule[step]}
        for role in asked - {c.role for c in self.graph.classes}:
            for frozen in self.graph.couplings.frozen:
                if self._has_role(role, frozen.parameter, frozen.dim):
                    raise PruningRefused(f"a ratio for {role} was asked for, but they cannot be pruned: {frozen}")

    def _frozen_roles(self, step: int) -> list[Adjustment]:
        """Roles that the common ratio asks for, and of which the model has channels that are all frozen."""
        there = {c.role for c in self.graph.classes}
        left = []
        for role in ("hidden", "routed_experts", "shared_experts", "heads"):
            asked = self.request.schedule[step] if role not in self.request.by_role else 0
            if not asked or role in there or (role == "heads" and (self.request.heads_named or "hidden" not in there)):
                continue  # where hidden channels are frozen, those of attention say nothing of heads
            frozen = next((f for f in self.graph.couplings.frozen if self._has_role(role, f.parameter, f.dim)), None)
            if frozen is not None:
                positions = np.array(frozen.positions)[:, None]
                member = Member(frozen.parameter, frozen.dim, positions)
                reason = Reason(str(replace(frozen, line="")), frozen.line)
                held = PruningClass(CouplingClass((member,)), role, "")
                left.append(Adjustment(held, kept_units(len(positions), asked), len(positions), reason))
        return left

    def cause(self, step: int) -> str:
        """Reason why ``step`` finds nothing to cut, for the first class or dimension that was asked for."""
        request, graph = self.request, self.graph
        asked = [c for c in graph.classes if request.ratio(c, graph.nodes.output_layers(c.coupling), step)]
        for pruning_class in asked:
            if pruning_class.coupling.size == 1:
                return f"{pruning_class.name} has a single unit"
            if is_ignored(graph.nodes, pruning_class, self.ignored, graph.ignored_params):
                return f"{pruning_class.name} cuts an ignored layer or parameter"
            if not has_root(graph.nodes, pruning_class, self.root_types):
                return f"{pruning_class.name} cuts no output of the root_module_types"
            return f"{pruning_class.name} keeps all its units at this ratio"
        if not graph.classes and graph.couplings.frozen:
            return str(graph.couplings.frozen[0])
        roles = ", ".join(dict.fromkeys(c.role for c in graph.classes))
        return f"no class was asked for; what can be cut here is {roles}" if roles else "the model has no channels"

    def _has_role(self, role: str, parameter: str, dim: int) -> bool:
        """Whether the channels of a role would be this dimension; only roles that are known without a class."""
        roles = self.graph.found_roles
        if role == "hidden":
            return is_hidden(parameter, dim, embedding_weights(self.graph.model), roles)
        if role == "heads":
            return dim == 0 and is_attention(parameter)
        inside = {"routed_experts": roles.boundary, "shared_experts": roles.shared}.get(role)
        if inside is None or inside(parameter) is None:
            return False
        return dim == max(len(self.graph.couplings.trace.tensors[parameter]) - 2, 0)  # outputs; experts come first

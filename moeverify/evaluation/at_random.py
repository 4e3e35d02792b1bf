"""The yardstick of a pruner's choice: the same sizes, reached by removing channels and whole experts at random."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.coupling.classify import classify
from moeverify.coupling.couplings import trace_couplings
from moeverify.errors import MoEVerifyError
from moeverify.models.forward import Example
from moeverify.models.module_lists import renamed
from moeverify.models.roles import FoundRoles, find_roles
from moeverify.pruning.experts.removal import ExpertLayout, expert_cuts, expert_layout, with_experts
from moeverify.pruning.plan.apply import slice_kept
from moeverify.pruning.plan.expert_cut import ExpertCut, renumbered
from moeverify.pruning.plan.plan import Cut, make_plan

Tensors = Mapping[str, torch.Tensor]


@torch.no_grad()
def prune_at_random(
    original: nn.Module, pruned: nn.Module, example_inputs: Any, seed: int, roles: FoundRoles | None = None
) -> nn.Module | None:
    """A copy of ``pruned`` that holds other channels and experts of ``original``: as many, drawn at random.

    ``roles`` are those of ``original``, searched for if not given. ``None`` if removing coupled channels and whole
    experts cannot give the shapes of ``pruned``.
    """
    before = _tensors(original)
    model = copy.deepcopy(pruned)
    after = _tensors(model)
    draw = np.random.default_rng(seed)
    roles = find_roles(original, roles)
    layout = _layout(original, roles, example_inputs)
    experts = () if layout is None else _experts_at_random(layout, before, after, draw)
    now = {name: renamed(name, experts) for name in before}
    cuts = []
    couplings = trace_couplings(original, example_inputs, roles=roles)
    for pruning_class in classify(original, couplings.classes, roles, couplings):
        size = pruning_class.coupling.size
        member = next((m for m in pruning_class.coupling.members if not m.buffer and now[m.parameter] in after), None)
        if member is None:
            continue
        left = after[str(now[member.parameter])].shape[member.dim]
        if (member.parameter, member.dim) in pruning_class.in_turn and experts:
            return None  # positions of experts and of channels in one dimension
        kept = size - (before[member.parameter].shape[member.dim] - left) // member.positions.shape[1]
        if 0 < kept < size:
            rows = [np.sort(draw.permutation(size)[:kept]) for _ in range(max(pruning_class.experts, 1))]
            cuts.append(Cut(pruning_class, np.stack(rows) if pruning_class.experts else rows[0]))
    plan = make_plan(cuts, {(n, dim): size for n, t in before.items() for dim, size in enumerate(t.shape)})
    plan = plan if layout is None else with_experts(plan, layout, experts)
    tables = {name: cut for cut in experts for name in cut.tables}
    sources = {new: name for name, new in now.items() if new is not None}
    for name, tensor in after.items():
        if name not in sources:
            return None
        source = sources[name]
        values = before[source]
        # Channels first: each expert has its own, by its number in the original.
        places = [(dim, kept) for (parameter, dim), kept in plan.keep.items() if parameter == source]
        for dim, positions in sorted(places, key=lambda place: -place[0]):
            values = slice_kept(values, dim, positions)
        if source in tables:
            values = renumbered(values, tables[source].kept, tables[source].before)
        if values.shape != tensor.shape:
            return None
        tensor.copy_(values)
    return model


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def _layout(model: nn.Module, roles: FoundRoles, example_inputs: Any) -> ExpertLayout | None:
    """Layout of the experts of a model; ``None`` without experts, or where that is not understood."""
    try:
        return expert_layout(model, roles, Example(example_inputs))
    except MoEVerifyError:
        return None


def _experts_at_random(
    layout: ExpertLayout, before: Tensors, after: Tensors, draw: np.random.Generator
) -> tuple[ExpertCut, ...]:
    """Random experts to keep in each layer: as many as the router now has rows for, equally many from each group."""
    kept, scores = {}, {}
    for counted in layout.layers:
        name = counted.layer.name
        axis = next((a for a in counted.axes if a.parameter not in counted.layer.stacks and a.parameter in after), None)
        lost = 0 if axis is None else before[axis.parameter].shape[axis.dim] - after[axis.parameter].shape[axis.dim]
        kept[name] = counted.count - lost
        scores[name] = torch.as_tensor(draw.permutation(counted.count))
    return expert_cuts(layout, kept, scores)

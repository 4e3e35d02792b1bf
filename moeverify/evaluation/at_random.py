"""The yardstick of a pruner's choice: the same sizes, reached by removing channels at random."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.coupling.classify import classify
from moeverify.coupling.couplings import trace_couplings
from moeverify.models.roles import find_roles
from moeverify.pruning.plan.apply import slice_kept
from moeverify.pruning.plan.plan import Cut, make_plan


@torch.no_grad()
def prune_at_random(original: nn.Module, pruned: nn.Module, example_inputs: Any, seed: int) -> nn.Module | None:
    """A copy of ``pruned`` that holds other channels of ``original``: as many of each class, drawn at random.

    ``None`` if the shapes of ``pruned`` cannot be had by removing coupled channels.
    """
    before = dict([*original.named_parameters(), *original.named_buffers()])
    model = copy.deepcopy(pruned)
    after = dict([*model.named_parameters(), *model.named_buffers()])
    draw = np.random.default_rng(seed)
    cuts = []
    couplings = trace_couplings(original, example_inputs)
    for pruning_class in classify(original, couplings.classes, find_roles(original), couplings):
        size = pruning_class.coupling.size
        member = next(m for m in pruning_class.coupling.members if not m.buffer)
        if member.parameter not in after:
            continue
        lost = before[member.parameter].shape[member.dim] - after[member.parameter].shape[member.dim]
        kept = size - lost // member.positions.shape[1]
        if 0 < kept < size:
            rows = [np.sort(draw.permutation(size)[:kept]) for _ in range(max(pruning_class.experts, 1))]
            cuts.append(Cut(pruning_class, np.stack(rows) if pruning_class.experts else rows[0]))
    plan = make_plan(cuts, {(n, dim): size for n, t in before.items() for dim, size in enumerate(t.shape)})
    for name, tensor in after.items():
        if name not in before:
            return None
        values = before[name]
        for (parameter, dim), positions in plan.keep.items():
            if parameter == name:
                values = slice_kept(values, dim, positions)
        if values.shape != tensor.shape:
            return None
        tensor.copy_(values)
    return model

"""Units whose output no weight reads, such as retrieval heads: whether they add nothing once their weights are zero.

Removing a unit equals zeroing its weights only if a unit with weights of zero adds nothing. A head whose scores pass a
softmax still adds something, unless a projection reads it.
"""

from __future__ import annotations

import torch
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.models.containers import leaves, map_leaves
from moeverify.models.forward import Example
from moeverify.models.numerics import float64_throughout, in_float64
from moeverify.models.state import same_start
from moeverify.pruning.attributes.change import set_attributes
from moeverify.pruning.plan.apply import apply_plan
from moeverify.pruning.plan.folds import apply_folds
from moeverify.pruning.plan.plan import Plan

NOT_NOTHING = "with its weights at zero, a unit still adds to the outputs, since no weight reads what it computes"
_CLOSE = 1e-6


def has_no_reader(pruning_class: PruningClass, sizes: dict[str, int]) -> bool:
    """Whether every member is an output dimension, so that no weight reads the channels.

    ``sizes`` gives the number of dimensions of each parameter. Exception: rows of expert-major matrices, which the rows
    of another matrix read.
    """
    members = (member for member in pruning_class.coupling.members if sizes.get(member.parameter, 0) > 1)
    return not pruning_class.experts and all(member.dim == 0 for member in members)


def vanishes(model: nn.Module, plan: Plan, example: Example) -> bool:
    """Whether a copy pruned by ``plan`` computes the same as a copy whose removed units have zero weights.

    Also ``True`` if a copy does not run, since nothing can be compared.
    """
    masked, pruned = in_float64(model).eval(), in_float64(model).eval()
    with torch.no_grad():
        tensors = dict(masked.named_parameters())
        for cut in plan.cuts:
            for member in cut.pruning_class.coupling.members:
                if not member.buffer:
                    lost = torch.as_tensor(cut.lost(member), device=tensors[member.parameter].device)
                    tensors[member.parameter].index_fill_(member.dim, lost, 0)
    apply_folds(pruned, plan.folds)
    apply_plan(pruned, plan)
    set_attributes(pruned, plan.attributes)
    try:
        return _alike(_outputs(masked, example), _outputs(pruned, example))
    except Exception:  # whatever a forward raises
        return True


def _outputs(model: nn.Module, example: Example) -> list[torch.Tensor]:
    inputs = map_leaves(
        lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, example.inputs
    )
    with same_start(model), float64_throughout():
        output = example(model, inputs)
    return [t for t in leaves(output) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def _alike(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether outputs are alike; those of other shapes are not compared."""
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if a.shape == b.shape and a.numel()]
    return all(float((a - b).abs().max()) <= _CLOSE * (float(a.abs().max()) or 1.0) for a, b in pairs)

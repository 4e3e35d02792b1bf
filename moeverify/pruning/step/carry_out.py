"""Carry a plan out on a model: weights, folded constants, configuration and sizes of modules, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.configuration import ConfigUpdate, Probe, apply_update, has_config, plan_update
from moeverify.pruning.plan.apply import OwnFunctions, apply_plan
from moeverify.pruning.plan.folds import apply_folds
from moeverify.pruning.plan.plan import Plan


def plan_configuration(model: nn.Module, plan: Plan) -> ConfigUpdate | None:
    """The update of the configuration for ``plan``; ``None`` without one.

    Raises ``PruningRefused`` if the plan's entries do not say the plan's sizes.
    """
    if not has_config(model):
        return None
    probe = Probe(model)
    return plan_update(probe, dict(plan.entries), plan.shapes(probe.base))


def carry_out(
    model: nn.Module, plan: Plan, update: ConfigUpdate | None = None, own_functions: OwnFunctions | None = None
) -> None:
    """Prune ``model`` in place; ``update`` may be given if it is known already.

    Raises ``PruningRefused``, with the model untouched, if the plan does not fit it.
    """
    update = update or plan_configuration(model, plan)
    _check_sizes(model, plan.sizes)
    apply_plan(model, plan, own_functions)
    apply_folds(model, plan.folds)
    if update is not None:
        apply_update(model, update)


def _check_sizes(model: nn.Module, sizes: Mapping[tuple[str, int], Any]) -> None:
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for (name, dim), size in sizes.items():
        shape = tensors[name].shape if name in tensors else ()
        if dim >= len(shape) or shape[dim] != size:
            raise PruningRefused(f"the plan expects {size} positions along dimension {dim} of {name}, which is {shape}")

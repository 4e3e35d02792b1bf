"""The one executor: carry a plan out on a model, and update what follows from its sizes.

``step``, ``prune`` and ``apply-plan`` carry out whole plans. Groups that a user prunes one by one cut by themselves;
what follows from their sizes is updated here as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.attributes.change import set_attributes
from moeverify.pruning.configuration import ConfigUpdate, Probe, apply_update, has_config, plan_update
from moeverify.pruning.plan.apply import OwnFunctions, apply_plan
from moeverify.pruning.plan.folds import Fold, apply_folds
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.drop_layers import drop_layers, without_layers


def plan_configuration(model: nn.Module, plan: Plan) -> ConfigUpdate | None:
    """The update of the configuration for ``plan``; ``None`` without one.

    Raises ``PruningRefused`` if the plan's entries do not give the plan's sizes.
    """
    if not has_config(model):
        return None
    probe = Probe(model)
    return plan_update(probe, dict(plan.entries), plan.shapes(probe.base))


def carry_out(
    model: nn.Module, plan: Plan, update: ConfigUpdate | None = None, own_functions: OwnFunctions | None = None
) -> None:
    """Prune ``model`` in place: layers, attributes, weights, folded constants, configuration, in that order.

    ``update`` may be given if it is known already; it is of the model without the layers that go. ``own_functions``
    prune layers that cut themselves. Raises ``PruningRefused``, with the model untouched, if the plan does not fit it.
    """
    _check_sizes(model, plan.sizes, own_functions or {})
    if plan.layers is not None:
        rest = plan.behind_layers()
        update = update or plan_configuration(without_layers(model, plan.layers), rest)
        drop_layers(model, plan.layers)
        plan = rest
    update = update or plan_configuration(model, plan)
    undo = set_attributes(model, plan.attributes)
    try:
        apply_plan(model, plan, own_functions)
    except Exception:
        undo()
        raise
    bring_in_step(model, plan.folds, update)


def bring_in_step(model: nn.Module, folds: Iterable[Fold], update: ConfigUpdate | None) -> None:
    """Fold constants into the weights of a model that was cut, and write configuration and sizes of modules."""
    apply_folds(model, folds)
    if update is not None:
        apply_update(model, update)


def _check_sizes(model: nn.Module, sizes: Mapping[tuple[str, int], Any], own_functions: OwnFunctions) -> None:
    """Raise ``PruningRefused`` unless the tensors have the sizes that the plan was made for."""
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for (name, dim), size in sizes.items():
        if name in own_functions:
            continue
        shape = tensors[name].shape if name in tensors else ()
        if dim >= len(shape) or shape[dim] != size:
            raise PruningRefused(
                f"the plan expects {size} positions along dimension {dim} of {name}, which is {shape}; "
                "make the plan anew for this model"
            )

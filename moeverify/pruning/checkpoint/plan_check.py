"""A plan that was read from a file, checked against its base: it fits, and holds nothing that no cut needs.

Everything that the cuts decide is worked out anew: which entries give the sizes, which weights take over a constant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from moeverify.base.entries import EntryPath, name_of, with_entries
from moeverify.base.foreign import left_by
from moeverify.errors import PlanError, PruningRefused
from moeverify.models.forward import Example
from moeverify.models.limits import check_sizes
from moeverify.models.roles import find_roles
from moeverify.models.skeleton import Attribute, Shapes, changed_attributes, has_config, shapes_of
from moeverify.pruning.attributes.change import set_attributes
from moeverify.pruning.attributes.slots import value_of
from moeverify.pruning.checkpoint.plan_coupled import check_coupled
from moeverify.pruning.checkpoint.plan_routing import follows_experts
from moeverify.pruning.configuration import ConfigUpdate, Probe, plan_update
from moeverify.pruning.constants.constants import keep_constants, merged
from moeverify.pruning.constants.derived import DerivedNumbers
from moeverify.pruning.plan.apply import apply_plan, check_keep
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.folds import Fold
from moeverify.pruning.plan.plan import Plan
from moeverify.pruning.step.drop_layers import without_layers

# An entry may go up where another one goes down (more, smaller heads), but not without bounds.
_MOST_GROWTH = 64


def check_plan(model: nn.Module, plan: Plan, example_inputs: Any) -> ConfigUpdate | None:
    """Configuration update that the plan makes, behind that of layers which it drops; nothing is changed.

    Raises ``PlanError`` unless every cut fits the model and coupled tensors keep the same positions. It is also raised
    if the new sizes do not need an entry, or ask for other folds.
    """
    if plan.layers is not None:
        try:
            short, rest = without_layers(model, plan.layers), plan.behind_layers()
        except PruningRefused as error:
            raise PlanError(f"the plan's layers cannot be dropped: {error}") from error
        except KeyError as error:
            raise PlanError(f"the plan cuts {error.args[0]}, whose layer it drops; make the plan anew") from error
        return check_plan(short, rest, example_inputs)
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for (name, dim), size in plan.sizes.items():
        shape = tuple(tensors[name].shape) if name in tensors else ()
        if dim >= len(shape) or shape[dim] != size:
            raise PlanError(f"the plan expects {size} positions in dim {dim} of {name}, whose shape is {list(shape)}")
    try:
        check_keep(tensors, plan.keep, {})
    except PruningRefused as error:
        raise PlanError(f"the plan does not fit the model: {error}") from error
    for cut in plan.experts:
        _check_expert_cut(model, tensors, cut)
    for fold in plan.folds:
        if fold.parameter not in tensors:
            raise PlanError(f"the plan folds a constant into {fold.parameter}, which the model does not have")
    check_coupled(model, plan.keep, example_inputs)
    _check_attributes(model, plan, Example(example_inputs))
    if not has_config(model):
        return None
    probe = Probe(model)
    _check_entries(probe, plan)
    wanted = plan.shapes(probe.base)
    try:
        update = plan_update(probe, dict(plan.entries), wanted)
    except PruningRefused as error:
        raise PlanError(f"the plan's configuration does not give the sizes of its cuts: {_cause(error)}") from error
    _check_needed(probe, plan)
    _check_folds(probe, update, plan.folds, Example(example_inputs))
    return update


def _check_attributes(model: nn.Module, plan: Plan, example: Example) -> None:
    """Attributes hold the sizes that the plan takes them to hold, and the pruned model runs with the new ones."""
    modules = dict(model.named_modules())
    for change in plan.attributes:
        try:
            held = value_of(model, change.slot) if change.slot.module in modules else None
        except (AttributeError, KeyError, IndexError, TypeError):
            held = None
        if type(held) is not int or held != change.old:
            raise PlanError(f"the plan sets {change.slot} from {change.old}, which the model does not hold there")
        if change.new >= change.old:
            raise PlanError(f"the plan sets {change.slot} to {change.new}, which is no smaller than {change.old}")
    if not plan.attributes:
        return
    pruned = copy.deepcopy(model).eval()
    try:
        set_attributes(pruned, plan.attributes)
        apply_plan(pruned, plan)
        with torch.no_grad():
            example(pruned)
    except Exception as error:
        raise PlanError(f"the model does not run with the plan's attributes ({left_by(error)})") from error


def _check_entries(probe: Probe, plan: Plan) -> None:
    for path, value in plan.entries.items():
        if (old := probe.values.get(path)) is None:
            raise PlanError(f"the plan sets {name_of(path)}, which is no whole number of this configuration")
        if value > old * _MOST_GROWTH:
            raise PlanError(f"the plan sets {name_of(path)} to {value}, far above the base's {old}")
    check_sizes(with_entries(probe.document, plan.entries), "the plan", PlanError)
    try:
        probe.build(plan.entries)
    except Exception as error:
        raise PlanError(f"the plan's configuration gives no model: {left_by(error)}") from error


def _check_needed(probe: Probe, plan: Plan) -> None:
    """Raise ``PlanError`` for an entry that no cut needs.

    An entry is needed if a shape differs without it, or the architecture refuses the configuration. It is also needed
    to keep an attribute as it was, or if the kept experts determine it.
    """
    shapes, attributes = _built(probe, plan.entries) or ({}, set())
    for path, value in plan.entries.items():
        without = _built(probe, {p: v for p, v in plan.entries.items() if p != path})
        if without is None or without[0] != shapes:
            continue
        restores = without[1] - attributes
        old = probe.values[path]
        if not restores and value != old and not follows_experts(str(path[-1]), old, value, plan):
            raise PlanError(f"the plan sets {name_of(path)} to {value}, which no cut needs; make the plan anew")


def _built(probe: Probe, entries: Mapping[EntryPath, int]) -> tuple[Shapes, set[Attribute]] | None:
    """Shapes under ``entries``, and the attributes that differ from the base's; ``None`` if there is no such model."""
    try:
        model = probe.build(entries)
    except Exception:  # the architecture refuses them
        return None
    return shapes_of(model), set(changed_attributes(probe.original, model))


def _check_expert_cut(model: nn.Module, tensors: Mapping[str, torch.Tensor], cut: ExpertCut) -> None:
    modules = dict(model.named_modules())
    where = f"the experts of {cut.layer}"
    if cut.container not in modules:
        raise PlanError(f"the plan cuts {where} in {cut.container}, which the model does not have")
    if cut.children and list(cut.children) != list(modules[cut.container]._modules)[: cut.before]:
        raise PlanError(f"the plan cuts {where} from {cut.before} modules that {cut.container} does not hold")
    for name in cut.tables:
        table = tensors.get(name)
        if table is None or table.is_floating_point() or table.is_complex():
            raise PlanError(f"the plan renumbers {name} for {where}, which is no table of whole numbers")
        if table.numel() and not 0 <= int(table.min()) <= int(table.max()) < cut.before:
            raise PlanError(
                f"the plan renumbers {name} for {where}, whose values are no numbers of {cut.before} experts"
            )
    for path, name in cut.attributes:
        held = vars(modules[path]).get(name) if path in modules else None
        if type(held) is not int or held != cut.before:
            raise PlanError(f"the plan sets {name} of {path or 'the model'} for {where}, which is no number of experts")


def _check_folds(probe: Probe, update: ConfigUpdate, folds: Sequence[Fold], example: Example) -> None:
    constants = keep_constants(probe.model, update.constants(), example)
    derived = DerivedNumbers(probe, example, find_roles(probe.model)).keep(update)
    needed = _by_parameter(merged([*constants.folds, *derived.folds]))
    given = _by_parameter(folds)
    for name in sorted(given.keys() | needed.keys()):
        if name not in needed:
            raise PlanError(f"the plan folds a constant into {name}, which no cut needs; make the plan anew")
        if name not in given:
            raise PlanError(f"the plan does not fold the constant that its sizes change into {name}; make it anew")
        (factor, offset), (right, right_offset) = given[name], needed[name]
        if not math.isclose(factor, right, rel_tol=1e-9) or offset != right_offset:
            raise PlanError(f"the plan folds {factor} into {name}, the cuts need {right}; make the plan anew")


def _by_parameter(folds: Sequence[Fold]) -> Mapping[str, tuple[float, float]]:
    return {fold.parameter: (fold.factor, fold.offset) for fold in folds}


def _cause(error: PruningRefused) -> str:
    """Cause of a refusal without its remedy, which names arguments of the pruner that a plan lacks."""
    return str(error).partition(";")[0]

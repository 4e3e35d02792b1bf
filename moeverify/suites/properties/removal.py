"""Experts of synthetic models removed at will, and put into another order, for properties of both."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import synthetic_models
from moeverify.errors import PruningRefused
from moeverify.pruning.pruner import MoEPruner
from moeverify.suites.properties.trial import NotApplicable, Trial
from synthetic_models import Spec
from synthetic_models.names import FAMILIES
from synthetic_models.spec import BETWEEN_EXPERTS

CORRECTION = "e_score_correction_bias"


def original(trial: Trial) -> nn.Module:
    """A fresh model whose experts can be removed one by one, in float64.

    Choices without weights have rows of the router as well; only a configuration distinguishes them from experts.
    """
    spec = trial.spec
    # With expert_choice, which tokens an expert gets depends on other tokens.
    if spec.router == "expert_choice" or any(spec.strength(kind) for kind in BETWEEN_EXPERTS):
        raise NotApplicable("its experts are not chosen one by one for each token")
    return synthetic_models.build(spec).double() if spec.zero_experts else trial.model().double()


def removable(spec: Spec, generator: np.random.Generator) -> list[frozenset[int]]:
    """One or two disjoint sets of experts that may go, as many out of each group.

    Raises ``NotApplicable`` if the router needs all of its experts.
    """
    groups = spec.groups if spec.router == "group_limited" else 1
    each = spec.experts // groups
    least = max(-(-spec.top_k // (spec.chosen_groups if groups > 1 else 1)), spec.group_scores)
    least = max(least, 2) if groups == 1 else least
    count = min(each - least, 2)
    if spec.router == "hash":
        count = min(count, 1)  # the next expert that a row of ids does not name yet depends on the order of removal
    if count < 1:
        raise NotApplicable("the router needs all of its experts")
    orders = [generator.permutation(each) + group * each for group in range(groups)]
    return [frozenset(int(order[turn]) for order in orders) for turn in range(count)]


def without(trial: Trial, model: nn.Module, gone: Collection[int], **more: Any) -> nn.Module:
    """``model`` after the experts ``gone`` of every MoE layer went, in place; ``more`` goes to the pruner."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ratios = {"experts": len(gone) / _count(model, trial.spec) - 1e-12, **more.pop("ratios", {})}
            MoEPruner(
                model,
                trial.inputs,
                ratios=ratios,
                expert_criterion=lambda evidence: [float(n not in gone) for n in range(len(evidence.weights.flat))],
                roles=trial.roles(),
                **more,
            ).step()
        except PruningRefused as error:
            raise NotApplicable(f"refused: {error}") from error
    return model


def renumbered(experts: Collection[int], gone: Collection[int]) -> frozenset[int]:
    """The numbers of ``experts`` after others went.

    >>> sorted(renumbered({0, 3}, {1, 2}))
    [0, 1]
    """
    return frozenset(expert - sum(other < expert for other in gone) for expert in experts)


def _count(model: nn.Module, spec: Spec) -> int:
    """The present number of experts in an MoE layer."""
    names = FAMILIES[spec.names]
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == names.experts:
            if isinstance(module, nn.ModuleList):
                return len(module)
            return next(iter(module.parameters())).shape[0]
    raise NotApplicable("the spec has no MoE layer")


def permuted(model: nn.Module, spec: Spec, order: list[int]) -> dict[str, torch.Tensor]:
    """The state of ``model`` with the experts of every MoE layer in another order, and with them all that counts them.

    ``order[n]`` is the old number of the new expert ``n``. Ids in a table are renumbered, and choices without weights
    stay at the end.
    """
    names = FAMILIES[spec.names]
    state = model.state_dict()
    result = dict(state)
    count = len(order)
    rows = [*order, *range(count, count + spec.zero_experts)]
    inverse = torch.tensor(order).argsort()
    for key, value in state.items():
        parts = key.split(".")
        if names.experts in parts:
            at = parts.index(names.experts)
            if spec.storage == "listed":
                old = [*parts[: at + 1], str(order[int(parts[at + 1])]), *parts[at + 2 :]]
                result[key] = state[".".join(old)]
            else:
                result[key] = value[order]
        elif parts[-1] == "table" and parts[-2] == names.router:
            result[key] = inverse[value]
        elif (parts[-2] == names.router or parts[-1] == CORRECTION) and value.shape[:1] in ((count,), (len(rows),)):
            result[key] = value[rows[: len(value)]]
    return result


def put(model: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """``model`` with the tensors of ``state``, also where their shapes differ; in place."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf in module._buffers:
            module._buffers[leaf] = value.clone()
        else:
            module._parameters[leaf] = nn.Parameter(value.clone(), requires_grad=False)
    return model

"""The pruner under test: ours, stock Torch-Pruning, or the user's ``module:attribute``.

A subject is a function ``prune(model, example_inputs, *, pruning_ratio, seed)`` that prunes in place. It may return
a ``Pruned`` that tells its groups; whatever else it returns is ignored, and it is judged by its result alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from moeverify.errors import SourceError, UsageError
from moeverify.pruning.classes import PruningClass
from moeverify.pruning.plan import Plan
from moeverify.pruning.pruner import MoEPruner


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a subject tells of its work: the groups it had, the plan it carried out, expansions counted."""

    classes: tuple[PruningClass, ...] = ()
    plan: Plan | None = None
    expansions: int | None = None
    frozen: tuple[dict[str, str], ...] = ()
    unknown_operations: tuple[str, ...] = ()


Subject = Callable[..., Any]


def prune_moe(model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int) -> Pruned:
    """Our own pruner, called as the guide calls it."""
    torch.manual_seed(seed)
    head = getattr(model, "lm_head", None)
    pruner = MoEPruner(
        model,
        example_inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        pruning_ratio=pruning_ratio,
        ignored_layers=[head] if head is not None else [],
        round_to=4,
    )
    plan = pruner.step()
    couplings = pruner.DG.couplings
    frozen = {}
    for item in couplings.frozen:
        whole = f"{item.parameter} dim {item.dim}"
        frozen[whole] = {"where": whole, "operation": item.operation, "reason": item.reason}
    return Pruned(
        classes=pruner.DG.classes,
        plan=plan,
        expansions=pruner.DG.expansions,
        frozen=tuple(frozen.values()),
        unknown_operations=tuple(couplings.unknown_operations),
    )


def prune_stock(model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int) -> None:
    """Stock Torch-Pruning by its ``BasePruner``, with the same call."""
    torch.manual_seed(seed)
    head = getattr(model, "lm_head", None)
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
        global_pruning=False,
        output_transform=lambda out: getattr(out, "logits", out),
        pruning_ratio=pruning_ratio,
        ignored_layers=[head] if head is not None else [],
        round_to=4,
    )
    pruner.step()


BUILT_IN: dict[str, Subject] = {"moe": prune_moe, "torch-pruning": prune_stock}


def find_attribute(name: str) -> Any:
    """The object that ``module:attribute`` names, looked for in the current folder as well.

    Raises ``SourceError`` with one line if it cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise SourceError(f"cannot import {name}: {type(error).__name__}: {error}") from error
    return found


def load_subject(name: str) -> Subject:
    """A subject by name. Raises ``UsageError`` for an unknown name, ``SourceError`` if it cannot be imported."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        raise UsageError(f"unknown subject {name!r}; use {', '.join(BUILT_IN)} or module:attribute")
    subject = find_attribute(name)
    if not callable(subject):
        raise UsageError(f"{name} is not a function prune(model, example_inputs, *, pruning_ratio, seed)")
    return subject

"""Protocol of subjects.

The simplest subject is a plain function ``prune(model, example_inputs, *, pruning_ratio, seed)`` that prunes ``model``
in place. It has no groups, and is judged by every check that needs only the result. It may return more:

* the function returns a pruner of Torch-Pruning's kind, with ``step`` and a dependency graph ``DG``, instead of
  pruning. Its groups are read, its expansions are counted, and ``step`` is called;
* the function returns a ``Pruned`` with its groups;
* the function returns a model: that one is judged, and not the one that it was given.

Options of a run (``ratios``, ``round_to``, ``ignore``, ...) reach a function that has a parameter of that name.

A function ``prune(base_folder, out_folder, *, pruning_ratio, seed)`` prunes checkpoints; see ``folders``. Whatever else
a function returns is ignored.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.models.roles import Roles
from moeverify.models.wrappers import unwrapped
from moeverify.pruning.plan.plan import Plan
from moeverify.subjects.folders import Written, on_models, takes_folders


@dataclass(frozen=True, eq=False)
class Pruned:
    """Report of a subject on its work: groups, the plan it carried out, expansions counted.

    ``of_trace``: the groups come from our own trace, so that trace cannot judge them. ``model`` is the
    pruned model where it is another object than the subject was given. ``written`` is the folder of one that takes
    folders. ``expert_scores`` holds for each MoE layer, by name, the ``criterion``, the ``scores`` and the calibration
    ``tokens`` of its experts, as plain lists.
    """

    classes: tuple[PruningClass, ...] = ()
    plan: Plan | None = None
    expansions: int | None = None
    frozen: tuple[dict[str, str], ...] = ()
    unknown_operations: tuple[str, ...] = ()
    of_trace: bool = False
    model: nn.Module | None = None
    written: Written | None = None
    expert_scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def result(self, given: nn.Module) -> nn.Module:
        """The pruned model: the one that the subject was given, unless it made another."""
        return given if self.model is None else self.model


Subject = Callable[..., Any]


def keyword_parameters(subject: Subject) -> set[str] | None:
    """Names of keyword parameters; ``None`` if any name is taken. Wrappers show what they wrap."""
    try:
        parameters = inspect.signature(subject).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _on_folders(function: Callable[..., Any]) -> Subject:
    on_model = on_models(function)

    @functools.wraps(function)
    def prune(model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int, **options: Any) -> Pruned:
        pruned, written = on_model(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, **options)
        return Pruned(model=pruned, written=written)

    return prune


def adapt(function: Callable[..., Any], roles: Roles | None = None) -> Subject:
    """A subject from a user's function: see the module for what it may return. Expansions are counted.

    ``roles`` reach a function that has a parameter of this name, and name the experts in the groups of its pruner.

    Raises ``ExpansionsExceeded`` where a group of Torch-Pruning's grows past the limit.
    """
    from moeverify.subjects.expansions import counted
    from moeverify.subjects.groups import classes_of

    if takes_folders(function):
        return _on_folders(function)

    fixed = {"roles": roles} if roles is not None and "roles" in (keyword_parameters(function) or ()) else {}

    @functools.wraps(function)
    def prune(model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int, **options: Any) -> Pruned:
        options = {**fixed, **options}
        with counted() as count:
            answer = function(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, **options)
            if isinstance(answer, Pruned):
                return answer
            if isinstance(answer, nn.Module):
                return Pruned(expansions=count.total or None, model=unwrapped(answer))
            if not (callable(getattr(answer, "step", None)) and hasattr(answer, "DG")):
                return Pruned(expansions=count.total or None)
            classes = classes_of(answer, model, roles)
            answer.step()
        return Pruned(classes=classes, expansions=count.total or None)

    return prune

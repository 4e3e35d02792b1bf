"""Base of the faults: our pruner's right work on a model, and the means to spoil it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.subjects.moe import prune_moe
from moeverify.subjects.protocol import Pruned


class Work:
    """A model that our pruner has pruned rightly, beside the original."""

    def __init__(self, model: nn.Module, example_inputs: Any, *, pruning_ratio: float, seed: int) -> None:
        self.model = model
        self.original = copy.deepcopy(model)
        self.outcome: Pruned = prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed)

    def names(self, ending: str) -> list[str]:
        """Parameters whose name ends so, in the model's order. Raises ``LookupError`` if there is none."""
        result = [name for name, _ in self.model.named_parameters() if name.endswith(ending)]
        if not result:
            raise LookupError(f"no parameter ends in {ending}")
        return result

    def name(self, ending: str) -> str:
        """The first of ``names``."""
        return self.names(ending)[0]

    def kept(self, name: str, dim: int, expert: int | None = None) -> np.ndarray:
        """Positions that were rightly kept: ``[n]``, of one expert if it is a stack's."""
        plan = self.outcome.plan
        assert plan is not None
        kept = plan.keep.get((name, dim))
        if kept is None:
            return np.arange(self.original.get_parameter(name).shape[dim])
        return kept if kept.ndim == 1 else kept[expert or 0]

    def gone(self, name: str, dim: int, expert: int | None = None) -> np.ndarray:
        """Positions that were rightly removed."""
        size = self.original.get_parameter(name).shape[dim]
        return np.setdiff1d(np.arange(size), self.kept(name, dim, expert))

    def part(
        self, name: str, changed: dict[int, Sequence[int] | np.ndarray], expert: int | None = None
    ) -> torch.Tensor:
        """The original's values at the kept positions, but for the dimensions in ``changed`` (counted with the
        experts' dimension); one expert's slice if ``expert`` is given.
        """
        values = self.original.get_parameter(name).detach()
        dims = range(values.dim())
        if expert is not None:
            values, dims = values[expert], range(1, values.dim())
        for dim in dims:
            positions = changed.get(dim, self.kept(name, dim, expert))
            values = values.index_select(dim - (expert is not None), torch.as_tensor(np.array(positions)))
        return values.clone()

    def recut(self, name: str, changed: dict[int, Sequence[int] | np.ndarray], expert: int | None = None) -> None:
        """Put the original's values at other positions into the pruned model."""
        part = self.part(name, changed, expert)
        if expert is None:
            self.put(name, part)
        else:
            with torch.no_grad():
                self.model.get_parameter(name)[expert] = part

    def put(self, name: str, values: torch.Tensor) -> None:
        """Replace a parameter, whatever its new shape."""
        owner, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(values.clone()))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape

    def edit(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace a parameter's values by ``change`` of them."""
        with torch.no_grad():
            parameter = self.model.get_parameter(name)
            parameter.copy_(change(parameter.detach().clone()))

    def with_classes(self, classes: Iterable[PruningClass]) -> Pruned:
        """The outcome, with other groups."""
        return replace(self.outcome, classes=tuple(classes))


def without(classes: Iterable[PruningClass], member: Callable[[Member], bool]) -> list[PruningClass]:
    """The groups without some members."""
    return [replace(c, coupling=CouplingClass(tuple(m for m in c.coupling.members if not member(m)))) for c in classes]


def joined(classes: Iterable[PruningClass], pick: Callable[[PruningClass], bool], count: int = 2) -> list[PruningClass]:
    """The groups, with the first ``count`` of those that ``pick`` accepts joined into one."""
    classes = list(classes)
    chosen = [c for c in classes if pick(c)][:count]
    size = min(c.coupling.size for c in chosen)
    members = tuple(replace(m, positions=m.positions[:size]) for c in chosen for m in c.coupling.members)
    one = replace(chosen[0], coupling=CouplingClass(members))
    return [one, *(c for c in classes if all(c is not other for other in chosen))]

"""Request for fewer experts, and the decision: legal numbers, scores, and the experts that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles
from moeverify.pruning.experts.numbers import Wanted, numbers_kept, numbers_together, wanted_numbers
from moeverify.pruning.experts.removal import ExpertLayout, Scores, expert_cuts, expert_layout
from moeverify.pruning.plan.expert_cut import ExpertCut

Criterion = Callable[[nn.Module, ExpertLayout], Scores]


@dataclass(frozen=True, eq=False)
class Decision:
    """Experts that stay in each layer that loses some, with the scores of all, by layer name."""

    layout: ExpertLayout
    cuts: tuple[ExpertCut, ...]
    scores: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ExpertRequest:
    """A share of the experts to remove, common or by layer name, what ranks them, and what is to be left alone.

    ``schedule`` gives for a ratio the one after each of ``steps``; ``initial`` holds the numbers before the first.
    ``together`` ranks the experts of all layers by one threshold, so that layers may keep unequal numbers.
    ``layout`` is that of the model where it is known already.
    """

    ratio: float | Mapping[str, float]
    score: Criterion
    ignored: frozenset[nn.Module | nn.Parameter] = frozenset()
    schedule: Callable[[float], Sequence[float]] | None = None
    steps: int = 1
    together: bool = False
    step: int = 1
    initial: dict[str, int] = field(default_factory=dict)
    layout: ExpertLayout | None = None

    def at(self, step: int) -> ExpertRequest:
        """The request of one iterative step."""
        return replace(self, step=step)

    def decide(self, model: Any, roles: FoundRoles, example: Example) -> Decision:
        """The decision for a model; numbers are checked before anything is scored.

        Raises ``PruningRefused`` for a number that is illegal, or for scores that cannot rank.
        """
        layout = self.layout or expert_layout(model, roles, example)
        wanted = self._wanted(model, layout)
        if self.together:
            scores = self.score(model, layout)
            kept = numbers_together(layout, wanted, scores)
        else:
            kept, scores = numbers_kept(layout, wanted), {}
        if all(kept[c.layer.name] == c.count for c in layout.layers):
            return Decision(layout, ())
        scores = scores or self.score(model, layout)
        return Decision(layout, expert_cuts(layout, kept, scores), scores)

    def removes_some(self, model: nn.Module, layout: ExpertLayout) -> bool:
        """Whether experts have to be scored. Raises ``PruningRefused`` for a number that is illegal."""
        if self.together:
            return True
        kept = numbers_kept(layout, self._wanted(model, layout))
        return any(kept[c.layer.name] != c.count for c in layout.layers)

    def _wanted(self, model: nn.Module, layout: ExpertLayout) -> Wanted:
        for counted in layout.layers:
            self.initial.setdefault(counted.layer.name, counted.count)
        wanted = wanted_numbers(layout, self._ratio(), self.initial, self._left_alone(model, layout))
        return replace(wanted, final=self.step == self.steps)

    def _ratio(self) -> float | Mapping[str, float]:
        """The ratio after the present step."""
        if self.schedule is None:
            return self.ratio
        if isinstance(self.ratio, Mapping):
            return {name: self.schedule(ratio)[self.step] for name, ratio in self.ratio.items()}
        return self.schedule(self.ratio)[self.step]

    def _left_alone(self, model: nn.Module, layout: ExpertLayout) -> set[str]:
        """Layers of whose experts or routers the user ignores a part."""
        names = {
            f"{path}.{leaf}" if path else leaf
            for path, module in model.named_modules(remove_duplicate=False)
            for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
            if module in self.ignored or (isinstance(tensor, nn.Parameter) and tensor in self.ignored)
        }
        return {counted.layer.name for counted in layout.layers if any(map(counted.concerns, names))}

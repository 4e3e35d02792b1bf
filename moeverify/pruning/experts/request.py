"""The wish for fewer experts, and what comes of it: numbers that are legal, scores, and who stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles
from moeverify.pruning.experts.removal import ExpertLayout, Scores, expert_cuts, expert_layout, numbers_kept
from moeverify.pruning.plan.expert_cut import ExpertCut

Criterion = Callable[[nn.Module, ExpertLayout], Scores]


@dataclass(frozen=True, eq=False)
class Decision:
    """Who stays in each layer that loses experts, with the scores of all, by layer name."""

    layout: ExpertLayout
    cuts: tuple[ExpertCut, ...]
    scores: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ExpertRequest:
    """A share of the experts to remove, common or by layer name, what ranks them, and modules to be left alone."""

    ratio: float | Mapping[str, float]
    score: Criterion
    ignored: frozenset[nn.Module] = frozenset()

    def decide(self, model: Any, roles: FoundRoles, example: Example) -> Decision:
        """The decision for a model; numbers are checked before anything is scored.

        Raises ``PruningRefused`` for a number that is illegal, or for scores that cannot rank.
        """
        layout = expert_layout(model, roles, example)
        kept = numbers_kept(layout, self.ratio, self._left_alone(model, layout))
        if all(kept[c.layer.name] == c.count for c in layout.layers):
            return Decision(layout, ())
        scores = self.score(model, layout)
        return Decision(layout, expert_cuts(layout, kept, scores), scores)

    def _left_alone(self, model: nn.Module, layout: ExpertLayout) -> set[str]:
        """Layers whose experts or routers are among the modules that the user ignores."""
        return {
            c.layer.name
            for c in layout.layers
            for path in (c.layer.container, *c.layer.experts, *c.layer.routers)
            if "[" not in path and model.get_submodule(path) in self.ignored
        }

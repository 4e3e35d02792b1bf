"""Number of units that each class keeps, from their scores: class by class, or by one threshold for several."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

import torch

from moeverify.coupling.classify import PruningClass
from moeverify.errors import PruningRefused
from moeverify.pruning.choice.rounding import kept_units, least_units, round_down


@dataclass(frozen=True, eq=False)
class Candidate:
    """A class that may be pruned.

    ``scores``: ``[units]``, or ``[experts, units]`` for fused experts. ``initial``: number of units before the first
    step. ``ratio``: share of them to remove. ``ranked_with``: key of its ranking scope.
    """

    pruning_class: PruningClass
    scores: torch.Tensor
    initial: int
    ratio: float
    ranked_with: Hashable = None

    @property
    def size(self) -> int:
        """Units there are."""
        return self.pruning_class.coupling.size

    @property
    def experts(self) -> int:
        """Weight of the class in a joint count: one for each fused expert."""
        return max(self.pruning_class.experts, 1)


def rank(
    candidates: list[Candidate],
    *,
    round_to: int | None = None,
    max_ratio: float = 1.0,
    named: Collection[PruningClass] = (),
) -> dict[PruningClass, int]:
    """The number of units that each class keeps, for those that lose some.

    Heads are counted whole and not rounded; at least one unit of every class stays, or ``round_to`` if there are as
    many. Raises ``PruningRefused`` if a class in ``named``, ranked by itself, would lose all its units.
    """
    counts: dict[PruningClass, int] = {}
    scopes: dict[Hashable, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.ranked_with is None:
            counts[candidate.pruning_class] = _alone(candidate, round_to, max_ratio, candidate.pruning_class in named)
        else:
            scopes.setdefault(candidate.ranked_with, []).append(candidate)
    for scope in scopes.values():
        counts.update(_together(scope, round_to, max_ratio))
    return {c: kept for c, kept in counts.items() if kept < c.coupling.size}


def _rounding(candidate: Candidate, round_to: int | None) -> int | None:
    """Multiple to which the number of units is rounded; ``None`` without rounding, and for heads.

    If a unit holds several channels in every member, a smaller multiple of units gives the same multiple of channels.
    """
    if not round_to or candidate.pruning_class.role == "heads":
        return None
    pruning_class = candidate.pruning_class
    channels = math.gcd(*(pruning_class.of_expert(member, 0).shape[1] for member in pruning_class.coupling.members))
    return round_to // math.gcd(round_to, channels)


def _alone(candidate: Candidate, round_to: int | None, max_ratio: float, named: bool) -> int:
    ratio = min(candidate.ratio, max_ratio)
    if ratio == 0:
        return candidate.size
    rounding = _rounding(candidate, round_to)
    kept = kept_units(candidate.initial, ratio, rounding)
    if candidate.pruning_class.role == "heads":
        kept = max(kept, 1)
    if kept < 1 and not named:
        kept = min(rounding or 1, candidate.size)
    if kept < 1:
        raise PruningRefused(
            f"ratio {candidate.ratio} with round_to={round_to} would remove all {candidate.size} units of "
            f"{candidate.pruning_class.name}; lower one of them"
        )
    return min(kept, candidate.size)


def _together(scope: list[Candidate], round_to: int | None, max_ratio: float) -> Mapping[PruningClass, int]:
    """One threshold for all: as many of the worst units go as the ratio asks of the whole scope."""
    pooled = torch.cat([candidate.scores.flatten().float() for candidate in scope])
    initial = sum(candidate.initial * candidate.experts for candidate in scope)
    gone = len(pooled) - kept_units(initial, scope[0].ratio)
    if gone <= 0:
        return {}
    threshold = pooled.sort().values[gone - 1]
    counts = {}
    for candidate in scope:
        above = int((candidate.scores.float() > threshold).sum())
        kept = round(above / candidate.experts)  # fused experts share one width
        rounding = _rounding(candidate, round_to)
        kept = max(round_down(kept, rounding), least_units(candidate.initial, max_ratio, rounding))
        counts[candidate.pruning_class] = min(kept, candidate.size)
    return counts

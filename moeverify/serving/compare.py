"""Whether an engine computes the same: distances between distributions, and what follows for a pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moeverify.serving.answers import Answer
from moeverify.verdict import Status

# Engines run in float32 and agree to 1e-4 on models of transformers' own code. So much more is no rounding.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Outcome:
    """Result of one engine on a pruned model: ``base`` and ``pruned`` are distances from transformers, one a prompt."""

    engine: str
    version: str
    status: Status
    message: str
    base: tuple[float, ...] = ()
    pruned: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for evidence."""
        return {
            "engine": self.engine,
            "version": self.version,
            "status": self.status.value,
            "message": self.message,
            "base": list(self.base),
            "pruned": list(self.pruned),
            **self.facts,
        }


def distances(answer: Answer, reference: np.ndarray) -> tuple[float, ...]:
    """For each prompt the largest difference of log-probabilities among the engine's most likely tokens.

    Infinite where the engine gives NaN, or a token that the model does not have.
    """
    result = []
    for row, expected in zip(answer.distributions, reference, strict=True):
        tokens = np.array(list(row))
        if tokens.min() < 0 or tokens.max() >= len(expected):
            result.append(float("inf"))
            continue
        gaps = np.abs(np.array(list(row.values())) - expected[tokens])
        result.append(float(gaps.max()) if np.isfinite(gaps).all() else float("inf"))
    return tuple(result)


def judge(name: str, answers: Sequence[Answer], base: Sequence[float], pruned: Sequence[float]) -> Outcome:
    """The outcome of one engine from its answers on base and pruned folder, and their distances.

    The pruned model may differ from transformers by what its base does, at the median prompt, plus ``TOLERANCE``.
    A few prompts beyond that are ``inconclusive``: a near-tie of a router sends a token to another expert. Where the
    engine computes another function already for the base, nothing follows from a difference of the pruned model.
    """
    first, second = answers
    version = first.version or second.version
    label = f"{name} {version}".strip()
    if not first.served:
        reason = f"{label} does not serve the base: {first.refused}"
        return Outcome(name, version, Status.INCONCLUSIVE if first.undecided else Status.SKIP, reason)
    if not second.served:
        if second.undecided:
            return Outcome(
                name, version, Status.INCONCLUSIVE, f"{label} serves the base; {second.refused}", tuple(base)
            )
        reason = f"{label} serves the base and refuses the pruned model: {second.refused}"
        return Outcome(name, version, Status.FAIL, reason, tuple(base))
    status, message = _compared(label, np.array(base), np.array(pruned))
    return Outcome(name, version, status, message, tuple(base), tuple(pruned))


def _compared(label: str, base: np.ndarray, pruned: np.ndarray) -> tuple[Status, str]:
    silent = int((~np.isfinite(pruned)).sum())
    if silent > len(pruned) / 2 and np.isfinite(base).all():
        return Status.FAIL, f"{label} gives numbers for the base, and none for the pruned model on {silent} prompts"
    numbers = f"log-probabilities differ by {_number(pruned)}, in the base by {_number(base)}"
    if (pruned <= TOLERANCE).all():
        note = "" if np.median(base) <= TOLERANCE else "; it disagrees with transformers on the base"
        return Status.PASS, f"{label} answers as transformers does: {numbers}{note}"
    if np.median(base) > TOLERANCE:
        return Status.INCONCLUSIVE, (
            f"{label} disagrees with transformers already on the base, so nothing follows for the pruning: {numbers}"
        )
    beyond = int((pruned > np.median(base) + TOLERANCE).sum())
    if beyond > len(pruned) / 2:
        return Status.FAIL, (
            f"{label} computes something else than transformers for the pruned model alone: {numbers} "
            f"(allowed {np.median(base) + TOLERANCE:.2g})"
        )
    allowed = int((base > TOLERANCE).sum())
    if beyond <= allowed:
        return (
            Status.PASS,
            f"{label} answers as transformers does, but for {beyond} prompts (base: {allowed}): {numbers}",
        )
    return Status.INCONCLUSIVE, (
        f"{label} differs on {beyond} of {len(pruned)} prompts (base: {allowed}), which a near-tie of a router can do: "
        f"{numbers}; try another --seed"
    )


def _number(values: np.ndarray) -> str:
    """The median, and the largest if it is another order of magnitude."""
    median, most = float(np.median(values)), float(values.max())
    return f"{median:.2g}" if most < 10 * median or most < 1e-4 else f"{median:.2g} (at most {most:.2g})"


def combined(outcomes: Sequence[Outcome]) -> tuple[Status, str]:
    """One status for all engines, the worst first; engines with the same message are named together."""
    order = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIP)
    ranked = sorted(outcomes, key=lambda outcome: order.index(outcome.status))
    return ranked[0].status, "; ".join(outcome.message for outcome in ranked)

"""Conclusion of ``masked-equivalence`` from all inputs that were compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from moeverify.checks.evidence.agreement import Agreement
from moeverify.checks.evidence.forces import Change, in_part, towards
from moeverify.checks.evidence.sight import Part
from moeverify.checks.registry import Finding, inconclusive, passed, skipped
from moeverify.checks.unseen import unreached_experts, why_unseen
from moeverify.coupling.relations import Trace

# Relative error of outputs that is allowed.
TOLERANCE = 1e-9
# A tensor counts as seen, and a mask as one that matters, if it moves an output by so much more than is allowed.
VISIBLE = 1e3 * TOLERANCE


@dataclass(frozen=True)
class Force:
    """Tokens are sent to ``expert`` (its number in the original) of ``layer``; ``name`` is the expert's path.

    ``part``: only those of this turn are, with the weights that their first choices had.
    """

    layer: str
    expert: int
    name: str
    part: int | None = None

    def change(self, expert: int) -> Change:
        """Sends tokens to the expert with this number."""
        return towards(expert) if self.part is None else in_part(expert, self.part)


@dataclass
class Seen:
    """Observations over all inputs."""

    error: float = 0.0
    effect: float = 0.0
    near_ties: int = 0
    lengths: list[int | None] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)
    used: list[tuple[Any, Force | None]] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)


def equal(agreement: Agreement) -> bool:
    """Whether all outputs were compared and are the same."""
    return not agreement.wrong and not agreement.blind and agreement.error < TOLERANCE


def difference(agreement: Agreement) -> str:
    """The message for outputs that differ."""
    if agreement.wrong:
        return f"differs from the masked original: {agreement.wrong}"
    return f"{agreement.worst} differs from the masked original by {agreement.error:.1e} (allowed {TOLERANCE:.0e})"


def conclude(
    seen: Seen,
    parts: Sequence[Part],
    unseen: Collection[Part],
    evidence: dict[str, Any],
    trace: Trace | None,
    *,
    anything: bool,
) -> Finding:
    """The finding where no input differed.

    ``parts``: those that were cut. ``unseen``: those of them that were not seen to matter. ``trace``: that of the
    original, if it could be traced. ``anything``: whether a dimension was cut at all.
    """
    evidence = {**evidence, "cut": len(parts), "unseen": [part.label for part in unseen]}
    if not seen.used:
        return inconclusive(
            "every input drawn has a near-tie in the choice of experts, so nothing was shown; try another --seed",
            **evidence,
        )
    if seen.near_ties > len(seen.used):
        return inconclusive(
            f"{seen.near_ties} of {seen.near_ties + len(seen.used)} inputs drawn differ where the original's own "
            "choice of experts is a near-tie; try another --seed",
            **evidence,
        )
    if not anything:
        return skipped("nothing was cut, so there is nothing to compare", **evidence)
    if unseen:
        unreached = unreached_experts(parts, unseen, evidence["tokens"])
        return inconclusive(f"equal, but {why_unseen(unseen, trace, unreached)}", **evidence)
    if seen.effect < VISIBLE:
        return inconclusive(
            "equal, but the removed channels did not matter for any output; give example inputs that use them",
            **evidence,
        )
    return passed(
        f"equals the masked original to {seen.error:.1e}; the mask itself changes it by {seen.effect:.1e}; "
        f"all {len(parts)} cut parts were seen to matter",
        **evidence,
    )

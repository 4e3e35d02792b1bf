"""Conclusion of ``masked-equivalence`` from all inputs that were compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moeverify.checks.evidence.agreement import Agreement
from moeverify.checks.evidence.forces import Change, in_part, towards
from moeverify.checks.registry import Finding, inconclusive, passed, skipped
from moeverify.coupling.relations import Trace

# Relative error of outputs that is allowed.
TOLERANCE = 1e-9
# A tensor counts as seen, and a mask as one that matters, if it moves an output by so much more than is allowed.
VISIBLE = 1e3 * TOLERANCE
# Unseen tensors that a message names.
NAMED = 3


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


def difference(agreement: Agreement) -> str:
    """The message for outputs that differ."""
    if agreement.wrong:
        return f"differs from the masked original: {agreement.wrong}"
    return f"{agreement.worst} differs from the masked original by {agreement.error:.1e} (allowed {TOLERANCE:.0e})"


def conclude(
    seen: Seen, unseen: Sequence[str], evidence: dict[str, Any], trace: Trace | None, *, cut: int, anything: bool
) -> Finding:
    """The finding where no input differed.

    ``cut``: number of cut parts. ``unseen``: labels of those that were not seen to matter. ``trace``: that of the
    original, if it could be traced. ``anything``: whether a dimension was cut at all.
    """
    evidence = {**evidence, "cut": cut, "unseen": list(unseen)}
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
        named = ", ".join(unseen[:NAMED]) + (f" and {len(unseen) - NAMED} more" if len(unseen) > NAMED else "")
        was = "was" if len(unseen) == 1 else "were"
        return inconclusive(f"equal, but {named} {was} cut and {_unused(unseen, trace)}", **evidence)
    if seen.effect < VISIBLE:
        return inconclusive(
            "equal, but the removed channels did not matter for any output; give example inputs that use them",
            **evidence,
        )
    return passed(
        f"equals the masked original to {seen.error:.1e}; the mask itself changes it by {seen.effect:.1e}; "
        f"all {cut} cut parts were seen to matter",
        **evidence,
    )


def _unused(unseen: Sequence[str], trace: Trace | None) -> str:
    """Reason why nothing was seen of cut tensors, and the remedy that would show it."""
    them = "it" if len(unseen) == 1 else "them"
    if trace is not None and trace.in_training.issuperset(unseen):
        return (
            f"only a training forward uses {them}, in which the outputs differ; cut {them} with the channels that "
            "the layer reads, or leave the layer out with ignored_layers"
        )
    if trace is not None and trace.as_twins.issuperset(unseen):
        return f"no forward uses {them}; take {them} out of the model, or give example inputs that use {them}"
    return f"no input used {them}; give example inputs that reach every cut tensor"

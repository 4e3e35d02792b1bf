"""Limits of one case, and the clock that holds it to its seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moeverify.verification.settings import Settings


@dataclass(frozen=True)
class Limits:
    """Limits of one case: wall-clock seconds, and GiB of resident memory of all its processes.

    ``stages`` gives checks by name seconds of their own, which the others do not lose.
    """

    seconds: float = 120.0
    gibibytes: float = 12.0
    stages: Mapping[str, float] = field(default_factory=dict)


def limits_of(settings: Settings) -> Limits:
    """The limits that settings give: checks that run other programs have time of their own."""
    # Transformers runs both folders, then each engine does, and a refused one once more.
    served = 2 * settings.engine_timeout * max(len(settings.engines), 2) + settings.timeout
    stages = {"quality": settings.quality_timeout, "served": served}
    return Limits(settings.timeout, settings.memory, stages)


class Clock:
    """The deadline of a case: its clock stands still in stages that have seconds of their own.

    ``allowed`` are the seconds of the stage at hand; times are those of ``time.monotonic``.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._left: float | None = None  # of the case, while another stage has the clock
        self.allowed = limits.seconds
        self.deadline = now + limits.seconds

    def enter(self, stage: str, now: float) -> None:
        """A stage begins."""
        if self._left is not None:
            self.allowed, self.deadline, self._left = self._limits.seconds, now + self._left, None
        own = self._limits.stages.get(stage)
        if own is not None:
            self._left = max(self.deadline - now, 0.0)
            self.allowed, self.deadline = own, now + own

"""What a run tells while it goes on. Command line, pytest plugin and journal only listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moeverify.verdict import CaseFacts, Verdict
from moeverify.verification.case import Case


@dataclass(frozen=True)
class CaseStarted:
    """A case was handed to a worker."""

    case: Case


@dataclass(frozen=True)
class StageReached:
    """A case went on to its next stage: ``load``, ``prune`` or a check's name."""

    case: Case
    stage: str


@dataclass(frozen=True)
class VerdictReached:
    """One check has spoken."""

    case: Case
    verdict: Verdict


@dataclass(frozen=True)
class CaseFinished:
    """A case is over, with what is known of it beside the verdicts (``None`` if it did not get that far)."""

    case: Case
    facts: CaseFacts | None


Event = CaseStarted | StageReached | VerdictReached | CaseFinished
Listener = Callable[[Event], None]

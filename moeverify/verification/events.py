"""Events of a run, in the one form in which they travel from a case to journal, terminal and tests."""

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
    """A case went on to its next stage: ``import``, ``load``, ``prune`` or a check's name."""

    case: Case
    stage: str


@dataclass(frozen=True)
class VerdictReached:
    """A check returned its verdict."""

    case: Case
    verdict: Verdict


@dataclass(frozen=True)
class CaseFinished:
    """A case is over; ``facts`` are ``None`` if its source was not loaded."""

    case: Case
    facts: CaseFacts | None


Event = CaseStarted | StageReached | VerdictReached | CaseFinished
Listener = Callable[[Event], None]

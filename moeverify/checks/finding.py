"""Answer of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moeverify.verdict import Status


@dataclass(frozen=True)
class Finding:
    """A check's answer: a status, one line, and the evidence as plain JSON data."""

    status: Status
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def passed(message: str, **evidence: Any) -> Finding:
    """The property holds."""
    return Finding(Status.PASS, message, evidence)


def failed(message: str, **evidence: Any) -> Finding:
    """The property is violated."""
    return Finding(Status.FAIL, message, evidence)


def skipped(reason: str, **evidence: Any) -> Finding:
    """The check does not apply, for this reason."""
    return Finding(Status.SKIP, reason, evidence)


def inconclusive(reason: str, **evidence: Any) -> Finding:
    """The check applies but could not see enough; the reason gives the cause and what would make it visible."""
    return Finding(Status.INCONCLUSIVE, reason, evidence)

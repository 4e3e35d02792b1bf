"""Checks under stable names. Each is one module with one function from a context to a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moeverify.verdict import Status

if TYPE_CHECKING:
    from moeverify.checks.context import Context


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
    """The check does not apply; the reason says why."""
    return Finding(Status.SKIP, reason, evidence)


def inconclusive(reason: str, **evidence: Any) -> Finding:
    """The check applies but could not see enough; the reason says why and what would make it visible."""
    return Finding(Status.INCONCLUSIVE, reason, evidence)


Check = Callable[["Context"], Finding]
CHECKS: dict[str, Check] = {}
_OPTIONAL: set[str] = set()


def default_names() -> tuple[str, ...]:
    """The checks that run unless others are named."""
    return tuple(name for name in CHECKS if name not in _OPTIONAL)


def check(name: str, *, optional: bool = False) -> Callable[[Check], Check]:
    """Register a check under its stable name, in the order of the report.

    An ``optional`` one needs what not every model or installation has, and runs only when it is named.
    """

    def register(function: Check) -> Check:
        if name in CHECKS:
            raise ValueError(f"two checks are named {name}")
        CHECKS[name] = function
        if optional:
            _OPTIONAL.add(name)
        return function

    return register

"""Checks under stable names. Each is one module with one function from a context to a finding."""

from __future__ import annotations

from collections.abc import Callable

from moeverify.checks.context import Context
from moeverify.checks.finding import Finding, failed, inconclusive, passed, skipped

__all__ = ["CHECKS", "Check", "Finding", "check", "default_names", "failed", "inconclusive", "passed", "skipped"]

Check = Callable[[Context], Finding]
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

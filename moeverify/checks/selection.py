"""Selection of the checks that run."""

from __future__ import annotations

from collections.abc import Iterable

from moeverify.checks import CHECKS, default_names
from moeverify.errors import UsageError


def select_checks(checks: Iterable[str] | None, skip: Iterable[str] = (), also: Iterable[str] = ()) -> tuple[str, ...]:
    """The checks to run, in the report's order: ``checks``, else those that run by default, and ``also``.

    Raises ``UsageError`` for a name that no check has.
    """
    chosen, skipped = [*(checks or default_names()), *also], set(skip)
    for name in (*chosen, *skipped):
        if name not in CHECKS:
            raise UsageError(f"unknown check {name!r}; the checks are {', '.join(CHECKS)}")
    selected = tuple(name for name in CHECKS if name in chosen and name not in skipped)
    if not selected:
        raise UsageError("every check was skipped; leave at least one")
    return selected

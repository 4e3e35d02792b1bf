"""Options of a run that reach the subject: ratios by role, rounding, importance."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from moeverify.base.foreign import foreign_code
from moeverify.errors import UsageError
from moeverify.subjects.protocol import Subject

# How an option of the subject is written on the command line.
_FLAGS = {"ratios": "--ratio", "round_to": "--round-to", "importance": "--importance"}


def given_options(ratios: Mapping[str, float], round_to: int | None, importance: str | None) -> dict[str, Any]:
    """The options that were given; an importance is made from its name.

    Raises ``UsageError`` for an importance that is none.
    """
    options: dict[str, Any] = {}
    if ratios:
        options["ratios"] = dict(ratios)
    if round_to is not None:
        options["round_to"] = round_to
    if importance is not None:
        from moeverify.pruning.choice.importances import importance_named

        with foreign_code(f"cannot make the importance {importance}", UsageError):
            options["importance"] = importance_named(importance)
    return options


def with_options(subject: Subject, name: str, options: Mapping[str, Any]) -> Subject:
    """The subject with ``options`` bound, as every call of it gets them.

    Raises ``UsageError`` if the subject has no parameter for one of them.
    """
    if not options:
        return subject
    accepted = _parameters(subject)
    for option in options:
        if accepted is not None and option not in accepted:
            raise UsageError(
                f"{name} has no parameter {option!r}; leave out {_FLAGS[option]}, or let the function take {option}"
            )
    return functools.partial(subject, **options)


def _parameters(subject: Subject) -> set[str] | None:
    """Names of keyword parameters; ``None`` if any name is taken. Wrappers show what they wrap."""
    try:
        parameters = inspect.signature(subject).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}

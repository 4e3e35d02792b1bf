"""Options of a run that reach the subject: what is removed, what stays, and what ranks it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from moeverify.base.foreign import foreign_code
from moeverify.errors import UsageError
from moeverify.subjects.protocol import Subject, keyword_parameters

# How an option of the subject is written on the command line.
_FLAGS = {
    "ratios": "--ratio",
    "round_to": "--round-to",
    "ignore": "--ignore",
    "importance": "--importance",
    "expert_criterion": "--expert-criterion",
    "calibration": "--calibration and --statistics",
}


def given_options(
    ratios: Mapping[str, float],
    round_to: int | None,
    importance: str | None,
    expert_criterion: str | None = None,
    calibration: Any = None,
    *,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """The options that were given; importance and criterion are made from their names.

    Raises ``UsageError`` for an importance or a criterion that does not exist.
    """
    options: dict[str, Any] = {}
    if ratios:
        options["ratios"] = dict(ratios)
    if round_to is not None:
        options["round_to"] = round_to
    if ignore:
        options["ignore"] = tuple(ignore)
    if importance is not None:
        from moeverify.pruning.choice.importances import importance_named

        with foreign_code(f"cannot make the importance {importance}", UsageError):
            options["importance"] = importance_named(importance)
    if expert_criterion is not None:
        from moeverify.pruning.experts.scorer import criterion_from

        with foreign_code(f"cannot find the criterion {expert_criterion}", UsageError):
            options["expert_criterion"] = criterion_from(expert_criterion)
    if calibration is not None:
        options["calibration"] = calibration
    return options


def with_options(subject: Subject, name: str, options: Mapping[str, Any]) -> Subject:
    """The subject with ``options`` bound, as every call of it gets them.

    Raises ``UsageError`` if the subject has no parameter for one of them.
    """
    if not options:
        return subject
    accepted = keyword_parameters(subject)
    for option in options:
        if accepted is not None and option not in accepted:
            raise UsageError(
                f"{name} has no parameter {option!r}; leave out {_FLAGS[option]}, or let the function take {option}"
            )
    return functools.partial(subject, **options)

"""A case in one process: the subject prunes here, and its live model is judged."""

from __future__ import annotations

import time
from typing import Any

from moeverify.base.foreign import by_user, foreign_code
from moeverify.checks import CHECKS
from moeverify.checks.context import Saved
from moeverify.errors import SourceError, SubjectError
from moeverify.models.roles import Roles
from moeverify.models.sources import LoadedModel
from moeverify.subjects import Pruned, Subject, adapt, load_subject
from moeverify.subjects.options import with_options
from moeverify.verification.case import IMPORT, LOADING, PRUNE, Case
from moeverify.verification.events import Listener
from moeverify.verification.judging import Base, Interfered, crash_of, judge, load_base, stopped, timed
from moeverify.verification.untouched import fingerprint, own_copy


def run_case(
    case: Case,
    on_event: Listener,
    *,
    loaded: LoadedModel | None = None,
    subject: Subject | None = None,
    roles: Roles | None = None,
) -> None:
    """Run one case; ``on_event`` is called with each stage, each verdict, and ``CaseFinished`` at the end.

    ``loaded``, ``subject`` and ``roles`` take the place of what the case names: a model, a function or naming rules
    that live in this process. A subject that crashes is a verdict.

    Raises:
        SourceError: the source cannot be loaded.
        SubjectError: the subject cannot be imported.
        UsageError: an option was given that the subject does not take.

    """
    roles = roles or case.rules()
    seconds: dict[str, float] = {}
    with timed(seconds, IMPORT, case, on_event):
        subject = adapt(subject, roles) if subject else imported(case.subject, roles)
        subject = with_options(subject, case.subject, case.subject_options())
    with timed(seconds, LOADING, case, on_event):
        base = load_base(case, loaded, roles)
    why = "models and functions given as objects" if case.again is not None else "asked for"
    prune_in_process(case, base, subject, seconds, on_event, trusted=why)


def prune_in_process(
    case: Case, base: Base, subject: Subject, seconds: dict[str, float], on_event: Listener, *, trusted: str,
    announce: bool = True,
) -> None:  # fmt: skip
    """Let the subject prune in this process, and judge its live model. ``trusted``: why it is not judged as data.

    Without ``announce`` the stage was announced before.
    """
    # Taken before the subject runs, which shares this process: what it leaves behind must not judge it.
    checks = {name: CHECKS[name] for name in case.check_names()}
    before = fingerprint(base.original)
    begin = time.perf_counter()
    try:
        with timed(seconds, PRUNE, case, on_event if announce else _silent):
            ratio, seed = case.pruning_ratio, case.seed
            outcome = subject(base.loaded.model, own_copy(base.inputs), pruning_ratio=ratio, seed=seed)
        if fingerprint(base.original) != before:
            raise Interfered("it changed the base, which its result is compared with")
    except BaseException as error:
        if by_user(error):
            raise
        del seconds[PRUNE]
        stopped(case, base, *crash_of(error), time.perf_counter() - begin, on_event)
        return
    outcome = outcome if isinstance(outcome, Pruned) else Pruned()
    # A model that the subject returned is judged, and not the one that it was given.
    pruned = outcome.result(base.loaded.model)
    saved = None if outcome.written is None else Saved(outcome.written.folder, by_subject=True)
    judge(case, base, pruned.eval(), outcome, subject, checks, seconds, on_event, trusted=trusted, saved=saved)


def imported(name: str, roles: Roles | None) -> Subject:
    """The subject of that name, with ``roles`` bound. Raises ``SubjectError`` if it cannot be imported."""
    try:
        with foreign_code(f"cannot import {name}", SubjectError):
            return load_subject(name, roles)
    except SourceError as error:
        raise SubjectError(str(error)) from error


def _silent(event: Any) -> None:
    """Listen to nothing."""

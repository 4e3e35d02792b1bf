"""One case: load a source, let the subject prune it, run the checks. Runs in a process of its own."""

from __future__ import annotations

import contextlib
import copy
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from moeverify.base.foreign import by_user, foreign_code, left_by
from moeverify.checks import CHECKS, default_names
from moeverify.checks.context import Context
from moeverify.checks.registry import Check
from moeverify.checks.whole_layers import not_comparable
from moeverify.errors import ExpansionsExceeded, MoEVerifyError, SourceError, SubjectError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.offload import fetch_offloaded
from moeverify.models.roles import Roles, roles_in_force
from moeverify.models.sources import LoadedModel, load_source, parse_dtype
from moeverify.subjects import Pruned, Subject, adapt, load_subject
from moeverify.subjects.options import given_options, with_options
from moeverify.verdict import CaseFacts, Status, Verdict
from moeverify.verification.events import CaseFinished, Listener, StageReached, VerdictReached
from moeverify.verification.facts import model_facts, outcome_facts
from moeverify.verification.settings import Settings
from moeverify.verification.untouched import fingerprint, own_copy

IMPORT, LOADING, PRUNE = "import", "load", "prune"


class Interfered(MoEVerifyError):
    """The subject reached what it is judged by."""


@dataclass(frozen=True)
class Named:
    """What comes first in a case: the name of its model."""

    source: str


@dataclass(frozen=True)
class Case(Settings, Named):
    """One source under the settings of a run.

    With ``groups`` the facts hold the subject's groups. ``left`` names the checks that a resumed run has still to do;
    it is empty for all of them. ``python_path`` is a folder that the reproduce line needs on ``PYTHONPATH``.
    ``again`` replaces the reproduce line where the command line cannot name the model or the subject.
    """

    groups: bool = False
    left: tuple[str, ...] = ()
    python_path: str = ""
    again: str | None = None

    @classmethod
    def of(cls, source: str, settings: Settings, **more: Any) -> Case:
        """The case of a source under ``settings``."""
        return cls(source, **settings.arguments(), **more)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of ``to_dict``, also after JSON."""
        found: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
        if "quality" in found:
            found["quality"] = QualitySettings.from_dict(found["quality"])
        return cls(**found)

    def check_names(self) -> tuple[str, ...]:
        """The checks to run, in the report's order."""
        return self.left or self.checks or default_names()

    def reproduce(self) -> str:
        """A command that runs this case again as it stands; empty if no command can."""
        if self.again is not None:
            return self.again
        line = shlex.join(["moeverify", "verify", self.source, *self.words()])
        return f"PYTHONPATH={shlex.quote(self.python_path)}:$PYTHONPATH {line}" if self.python_path else line


def run_case(
    case: Case, on_event: Listener, *, loaded: LoadedModel | None = None, subject: Subject | None = None
) -> None:
    """Run one case; ``on_event`` is called with each stage, each verdict, and ``CaseFinished`` at the end.

    ``loaded`` and ``subject`` take the place of what the case names, for a model or a function that lives in this
    process. Roles that are functions are put in force by the caller. A subject that crashes is a verdict.

    Raises:
        SourceError: the source cannot be loaded.
        SubjectError: the subject cannot be imported.
        UsageError: an option was given that the subject does not take.

    """
    with roles_in_force(Roles(**case.roles)) if case.roles else contextlib.nullcontext():
        _run_case(case, on_event, loaded, subject)


def _run_case(case: Case, on_event: Listener, loaded: LoadedModel | None, subject: Subject | None) -> None:
    seconds: dict[str, float] = {}
    with _timed(seconds, IMPORT, case, on_event):
        subject = adapt(subject) if subject else _imported(case.subject)
        subject = with_options(subject, case.subject, given_options(case.ratios, case.round_to, case.importance))

    with _timed(seconds, LOADING, case, on_event):
        loaded = loaded or load_source(
            case.source,
            seed=case.seed,
            dtype=parse_dtype(case.dtype),
            trust_remote_code=case.trust_remote_code,
            device=case.device,
        )
        inputs = fetch_offloaded(loaded.model, loaded.example_inputs)
        original = copy.deepcopy(loaded.model)
        facts = model_facts(original, loaded.notes)
        facts |= {"dtype": case.dtype, "seed": case.seed, "pruning_ratio": case.pruning_ratio, "seconds": seconds}

    # Taken before the subject runs, which shares this process: what it leaves behind must not judge it.
    checks = {name: CHECKS[name] for name in case.check_names()}
    before = fingerprint(original)
    begin = time.perf_counter()
    try:
        with _timed(seconds, PRUNE, case, on_event):
            outcome = subject(loaded.model, own_copy(inputs), pruning_ratio=case.pruning_ratio, seed=case.seed)
        if fingerprint(original) != before:
            raise Interfered("it changed the model that it is judged by")
    except BaseException as error:
        if by_user(error):
            raise
        del seconds[PRUNE]
        _crashed(case, error, time.perf_counter() - begin, on_event)
        on_event(CaseFinished(case, CaseFacts(case.source, case.subject, facts)))
        return
    outcome = outcome if isinstance(outcome, Pruned) else Pruned()
    # A model that the subject returned is judged, and not the one that it was given.
    pruned = loaded.model if outcome.model is None else outcome.model
    context = Context(
        source=case.source,
        original=original,
        pruned=pruned.eval(),
        example_inputs=inputs,
        outcome=outcome,
        pruning_ratio=case.pruning_ratio,
        seed=case.seed,
        dtype=case.dtype,
        subject=subject,
        tokenizer=loaded.tokenizer,
        quality=case.quality.or_local(loaded.tasks),
        ratios=case.ratios,
        round_to=case.round_to,
    )
    for name, check in checks.items():
        with _timed(seconds, name, case, on_event):
            status, message, evidence = _checked(name, check, context)
        on_event(VerdictReached(case, verdict_of(case, name, status, message, evidence, seconds[name])))
    if "behaviour" in vars(context):  # a check asked for it
        facts["notes"] = [*facts["notes"], *context.behaviour.notes()]
    facts |= _outcome(context, groups=case.groups)
    on_event(CaseFinished(case, CaseFacts(case.source, case.subject, facts)))


def _imported(name: str) -> Subject:
    try:
        with foreign_code(f"cannot import {name}", SubjectError):
            return load_subject(name)
    except SourceError as error:
        raise SubjectError(str(error)) from error


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str, case: Case, on_event: Listener) -> Iterator[None]:
    """Announce a stage and record the seconds that it takes."""
    on_event(StageReached(case, stage))
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - begin


def _checked(name: str, check: Check, context: Context) -> tuple[Status, str, Mapping[str, Any]]:
    """Status, message and evidence of one check; a check that raises is an error."""
    try:
        finding = not_comparable(context, name) or check(context)
    except BaseException as error:
        if by_user(error):
            raise
        message = f"the check could not be carried out: {left_by(error)}"
        return Status.ERROR, message, {"traceback": traceback.format_exc(limit=-12)}
    return finding.status, finding.message, dict(finding.evidence)


def _outcome(context: Context, *, groups: bool) -> Mapping[str, Any]:
    """Facts of what the subject did; where the model cannot even be looked at, the reason."""
    try:
        return outcome_facts(context, groups=groups)
    except BaseException as error:
        if by_user(error):
            raise
        return {"facts_missing": left_by(error)}


def verdict_of(
    case: Case, check: str, status: Status, message: str, evidence: Mapping[str, Any], seconds: float = 0.0
) -> Verdict:
    """A verdict on ``case``."""
    return Verdict(case.source, case.subject, check, status, message, evidence, case.reproduce(), seconds)


def _crashed(case: Case, error: BaseException, seconds: float, on_event: Listener) -> None:
    """Verdicts where the subject did not finish: one on ``terminates``, skips for the other checks."""
    status, evidence = Status.ERROR, {"traceback": traceback.format_exc(limit=-12)}
    if isinstance(error, ExpansionsExceeded):
        status, evidence = Status.TIMEOUT, {"frames": list(error.frames)}
        message = f"the subject does not come to an end: {error}"
    elif isinstance(error, Interfered):
        message, evidence = f"the subject interfered: {error}", {}
    elif isinstance(error, MoEVerifyError):
        evidence = {}
        message = f"the subject refused: {' '.join(str(error).split())[:400]}"
    elif isinstance(error, Exception):
        name, _, text = left_by(error).partition(": ")
        message = f"the subject crashed ({name}): {text}"
    else:
        message = f"the subject {left_by(error)}"
    on_event(VerdictReached(case, verdict_of(case, "terminates", status, message, evidence, seconds)))
    for name in case.check_names():
        if name != "terminates":
            skip = verdict_of(case, name, Status.SKIP, "not reached: the subject did not finish", {})
            on_event(VerdictReached(case, skip))

"""One failing case again: a falsified property saved as a file, or the failures of a ``report.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moeverify.base.documents import DocumentLimits, read_document
from moeverify.base.foreign import foreign_code, guarded_exits
from moeverify.errors import SourceError, SubjectError, UsageError
from moeverify.report.comparison import read_result
from moeverify.report.result import VerificationResult
from moeverify.suites.properties.failure import FORMAT, Failure
from moeverify.verdict import LOAD, PROBLEMS, Status, Verdict
from moeverify.verification.settings import Settings


@dataclass(frozen=True)
class Replayed:
    """Outcome of replaying one failure: ``now`` is its message today, ``None`` if it is fixed."""

    title: str
    now: str | None
    script: str = ""


def replay(path: str | Path) -> Iterator[Replayed]:
    """Run each failure of a file again, one after the other.

    Raises ``UsageError`` with one line for a file that is neither a saved failure nor a report with failures.
    """
    path = Path(path)
    data = read_document(path, None, DocumentLimits(), error=UsageError)
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return _replay_failure(Failure.from_dict(data))
    if isinstance(data, dict) and "schema_version" in data:
        return _replay_report(path, read_result(path))
    raise UsageError(f"{path} is neither a saved failure ({FORMAT}) nor a report.json")


def _replay_failure(failure: Failure) -> Iterator[Replayed]:
    title = f"{failure.property} of {failure.subject} on {failure.spec!r}"
    try:
        with guarded_exits(), foreign_code("the subject", SubjectError):
            now = failure.still()
    except SubjectError as error:
        now = str(error)
    yield Replayed(title, now, failure.script())


def _replay_report(path: Path, result: VerificationResult) -> Iterator[Replayed]:
    failed = [v for v in result.verdicts if v.status in PROBLEMS]
    if not failed:
        raise UsageError(f"{path} holds no failure to replay")
    settings = Settings.from_description(result.settings)
    if settings.trust_remote_code:
        raise UsageError(
            f"{path} is of a run with --trust-remote-code, and a file does not let code run; replay by its line: "
            f"{failed[0].reproduce}"
        )
    for source, subject in dict.fromkeys((v.source, v.subject) for v in failed):
        mine = [v for v in failed if (v.source, v.subject) == (source, subject)]
        # A check is worth something only if the subject finished.
        checks = ("terminates", *(v.check for v in mine if v.check not in (LOAD, "terminates")))
        again = replace(settings, subject=subject, checks=checks if len(checks) > 1 else (), skip_checks=())
        now = _verdicts(source, replace(again, expect_fail=tuple(set(settings.expect_fail) & set(checks))))
        for verdict in mine:
            yield Replayed(f"{verdict.check} of {subject} on {source}", _still(verdict, now), verdict.reproduce)


def _verdicts(source: str, settings: Settings) -> dict[str, Verdict]:
    """Verdicts of another run by check. A source or subject that cannot be loaded is a verdict on ``load``."""
    from moeverify.verification.verify import run_settings

    try:
        return {v.check: v for v in run_settings(source, settings).verdicts}
    except (SourceError, SubjectError) as error:
        return {LOAD: Verdict(source, settings.subject, LOAD, Status.ERROR, str(error))}


def _still(before: Verdict, now: Mapping[str, Verdict]) -> str | None:
    """Present message of a problem; ``None`` only if its check passed on a subject that finished."""
    wanted = "terminates" if before.check == LOAD else before.check
    for name in (LOAD, "terminates", wanted):
        verdict = now.get(name)
        if verdict is not None and verdict.status is not Status.PASS:
            return f"{verdict.status.value}: {verdict.message}"
    return None if wanted in now else "the check gave no verdict"

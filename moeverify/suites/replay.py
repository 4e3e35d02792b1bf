"""One failing case again: a falsified property saved as a file, or the failures of a ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moeverify.errors import UsageError
from moeverify.models.roles import Roles
from moeverify.report.result import VerificationResult
from moeverify.suites.properties.failure import FORMAT, Failure
from moeverify.verdict import LOAD, PROBLEMS, Status


@dataclass(frozen=True)
class Replayed:
    """What became of one failure: ``now`` is what it says today, ``None`` if it is fixed."""

    title: str
    now: str | None
    script: str = ""


def replay(path: str | Path) -> Iterator[Replayed]:
    """Run each failure of a file again, one after the other.

    Raises ``UsageError`` with one line for a file that is neither a saved failure nor a report with failures.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return _replay_failure(Failure.from_dict(data))
    if isinstance(data, dict) and "schema_version" in data:
        return _replay_report(path, VerificationResult.from_json(path.read_text("utf-8")))
    raise UsageError(f"{path} is neither a saved failure ({FORMAT}) nor a report.json")


def _replay_failure(failure: Failure) -> Iterator[Replayed]:
    now = failure.still()
    yield Replayed(f"{failure.property} of {failure.subject} on {failure.spec!r}", now, failure.script())


def _replay_report(path: Path, result: VerificationResult) -> Iterator[Replayed]:
    from moeverify.verification.verify import verify

    failed = [v for v in result.verdicts if v.status in PROBLEMS]
    if not failed:
        raise UsageError(f"{path} holds no failure to replay")
    settings = {k: result.settings[k] for k in ("pruning_ratio", "seed", "dtype") if k in result.settings}
    if roles := result.settings.get("roles"):
        settings["roles"] = Roles(**roles)
    for source, subject in dict.fromkeys((v.source, v.subject) for v in failed):
        mine = [v for v in failed if (v.source, v.subject) == (source, subject)]
        checks = None if any(v.check == LOAD for v in mine) else [v.check for v in mine]
        again = verify(source, subject=subject, checks=checks, **settings)
        now = {v.check: v for v in again.verdicts if v.status in (*PROBLEMS, Status.INCONCLUSIVE)}
        for verdict in mine:
            found = now.get(verdict.check) or now.get(LOAD)
            message = None if found is None else f"{found.status.value}: {found.message}"
            yield Replayed(f"{verdict.check} of {subject} on {source}", message, verdict.reproduce)

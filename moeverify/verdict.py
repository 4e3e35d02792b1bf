"""Verdicts and what travels with them; their JSON is the truth that every report is drawn from."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from moeverify.errors import ReportError

SCHEMA_VERSION = "1.0"


class Status(StrEnum):
    """What a check says. ``ERROR``: the subject crashed; ``TIMEOUT``: it hung."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    TIMEOUT = "timeout"
    SKIP = "skip"


# Not a check: the name under which a source that cannot be loaded is reported.
LOAD = "load"
PROBLEMS = (Status.FAIL, Status.ERROR, Status.TIMEOUT)


def plain(value: Any) -> Any:
    """``value`` as strict JSON can hold it: tuples become lists, numbers and strings of other libraries
    plain ones, infinities and NaN strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(value)
    return str(value)


@dataclass(frozen=True)
class Verdict:
    """What one check says of one subject on one source, with the evidence and a command that reproduces it."""

    source: str
    subject: str
    check: str
    status: Status
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reproduce: str = ""
    seconds: float = 0.0

    def expected_to_fail(self) -> Verdict:
        """The verdict of a check that is expected to fail: a problem passes, a pass becomes a failure."""
        if self.status in PROBLEMS:
            return replace(self, status=Status.PASS, message=f"{self.status.value}, as expected: {self.message}")
        if self.status is Status.PASS:
            message = f"passed although it was expected to fail; take {self.check} off the expected failures"
            again = f"{self.reproduce} --expect-fail {self.check}" if self.reproduce else ""
            return replace(self, status=Status.FAIL, message=message, reproduce=again)
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "status": Status(data["status"])})


@dataclass(frozen=True)
class CaseFacts:
    """What is known of one case beside the verdicts: sizes, roles, isolation matrices, timings."""

    source: str
    subject: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return plain(asdict(self))


def schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``."""
    return json.loads(resources.files("moeverify.report").joinpath("schema.json").read_text("utf-8"))


@dataclass(frozen=True)
class VerificationResult:
    """All verdicts of a run."""

    verdicts: tuple[Verdict, ...]
    cases: tuple[CaseFacts, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing failed, crashed or hung, and at least one check passed."""
        statuses = {v.status for v in self.verdicts}
        return Status.PASS in statuses and not statuses & set(PROBLEMS)

    @property
    def exit_code(self) -> int:
        """0 if ``ok``, 2 if a source could not even be loaded, else 1."""
        if any(v.check == LOAD for v in self.verdicts):
            return 2
        return 0 if self.ok else 1

    @property
    def summary(self) -> dict[str, int]:
        """Number of verdicts of each status."""
        return {status.value: sum(v.status is status for v in self.verdicts) for status in Status}

    def to_json(self) -> str:
        """The versioned document, valid against ``schema()``."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "seconds": self.seconds,
            "summary": self.summary,
            "settings": plain(self.settings),
            "versions": plain(self.versions),
            "verdicts": [v.to_dict() for v in self.verdicts],
            "cases": [c.to_dict() for c in self.cases],
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> VerificationResult:
        """Read a document. Raises ``ReportError`` with one line if it does not follow the schema."""
        try:
            data = json.loads(text)
            jsonschema.validate(data, schema())
        except json.JSONDecodeError as error:
            raise ReportError(f"not a JSON document: {error}") from error
        except jsonschema.ValidationError as error:
            where = "/".join(str(p) for p in error.absolute_path) or "top level"
            raise ReportError(f"not a moeverify report, at {where}: {error.message}") from error
        return cls(
            verdicts=tuple(Verdict.from_dict(v) for v in data["verdicts"]),
            cases=tuple(CaseFacts(**c) for c in data["cases"]),
            settings=data["settings"],
            versions=data["versions"],
            created=data["created"],
            seconds=data["seconds"],
        )

    def write_json(self, path: str | Path) -> Path:
        """Write the JSON document."""
        from moeverify.report.files import write_text

        return write_text(Path(path), self.to_json())

    def to_html(self, path: str | Path) -> Path:
        """Write the self-contained HTML report."""
        from moeverify.report.files import write_text
        from moeverify.report.html import render_html

        return write_text(Path(path), render_html(self))

    def to_junit(self, path: str | Path) -> Path:
        """Write JUnit XML."""
        from moeverify.report.files import write_text
        from moeverify.report.junit import render_junit

        return write_text(Path(path), render_junit(self))

    def write(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``junit.xml`` and ``report.html`` into ``folder``; return the HTML's path."""
        folder = Path(folder)
        self.write_json(folder / "report.json")
        self.to_junit(folder / "junit.xml")
        return self.to_html(folder / "report.html")

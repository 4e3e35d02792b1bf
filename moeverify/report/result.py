"""The outcome of a run: all verdicts as one versioned JSON document, that every report is drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, parse_document
from moeverify.errors import ReportError
from moeverify.verdict import LOAD, PROBLEMS, CaseFacts, Status, Verdict, plain

# 1.1 added the status ``inconclusive``; a report of 1.0 is still read.
SCHEMA_VERSION = "1.1"


def schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``."""
    document: dict[str, Any] = json.loads(
        resources.files("moeverify.report").joinpath("schema.json").read_text("utf-8")
    )
    return document


@dataclass(frozen=True)
class VerificationResult:
    """All verdicts of a run. With ``settings["strict"]`` inconclusive verdicts count as failures."""

    verdicts: tuple[Verdict, ...]
    cases: tuple[CaseFacts, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing failed, crashed or hung, and at least one check passed.

        With ``strict`` nothing was inconclusive either.
        """
        statuses = {v.status for v in self.verdicts}
        refused = {*PROBLEMS, Status.INCONCLUSIVE} if self.settings.get("strict") else {*PROBLEMS}
        return Status.PASS in statuses and not statuses & refused

    @property
    def inconclusive(self) -> tuple[Verdict, ...]:
        """Verdicts of checks that apply but could not see enough."""
        return tuple(v for v in self.verdicts if v.status is Status.INCONCLUSIVE)

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

    def to_dict(self) -> dict[str, Any]:
        """The versioned document as plain data, valid against ``schema()``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "created": plain(self.created),
            "seconds": self.seconds,
            "summary": self.summary,
            "settings": plain(self.settings),
            "versions": plain(self.versions),
            "verdicts": [v.to_dict() for v in self.verdicts],
            "cases": [c.to_dict() for c in self.cases],
        }

    def to_json(self) -> str:
        """The versioned document as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the text") -> VerificationResult:
        """Read a document. Raises ``ReportError`` with one line if it does not follow the schema."""
        data = parse_document(text, schema(), DocumentLimits(), name=name, kind="moeverify report", error=ReportError)
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
        from moeverify.base.files import write_text

        return write_text(Path(path), self.to_json())

    def to_html(self, path: str | Path) -> Path:
        """Write the self-contained HTML report."""
        from moeverify.base.files import write_text
        from moeverify.report.html import render_html

        return write_text(Path(path), render_html(self.to_dict(), ok=self.ok))

    def to_junit(self, path: str | Path) -> Path:
        """Write JUnit XML."""
        from moeverify.base.files import write_text
        from moeverify.report.junit import render_junit

        return write_text(Path(path), render_junit(self.to_dict()))

    def write(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``junit.xml`` and ``report.html`` into ``folder``; return the HTML's path."""
        folder = Path(folder)
        self.write_json(folder / "report.json")
        self.to_junit(folder / "junit.xml")
        return self.to_html(folder / "report.html")

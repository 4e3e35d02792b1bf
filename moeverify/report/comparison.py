"""Two runs side by side: which verdicts, sizes and versions differ, and whether anything became worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, read_text
from moeverify.errors import ReportError
from moeverify.report.html import render
from moeverify.report.result import VerificationResult
from moeverify.verdict import PROBLEMS, Status, Verdict


@dataclass(frozen=True)
class Change:
    """One check of one model in two runs; a side that did not run it is ``None``."""

    source: str
    check: str
    before: Verdict | None
    after: Verdict | None

    @property
    def kind(self) -> str:
        """``worse``, ``better``, ``new``, ``gone`` or ``same``: a problem where there was none is worse."""
        if self.before is None or self.after is None:
            alone = self.after or self.before
            if self.before is None and alone is not None and alone.status in PROBLEMS:
                return "worse"
            return "new" if self.before is None else "gone"
        if self.before.status in PROBLEMS and self.after.status is Status.INCONCLUSIVE:
            return "changed"  # that the problem is gone was not seen
        was, now = self.before.status in PROBLEMS, self.after.status in PROBLEMS
        if was != now:
            return "worse" if now else "better"
        passed = Status.PASS in (self.before.status, self.after.status)
        if passed and self.before.status is not self.after.status:
            return "worse" if self.before.status is Status.PASS else "better"
        return "same" if self.before.status is self.after.status else "changed"


@dataclass(frozen=True)
class Difference:
    """A value that differs: ``where`` (``versions torch``, ``zoo:mixtral parameters after``), before, after."""

    where: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """All checks of both runs, and the settings, versions and sizes that differ."""

    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Nothing became worse."""
        return not self.of_kind("worse")

    def of_kind(self, kind: str) -> tuple[Change, ...]:
        """The changes of one kind."""
        return tuple(c for c in self.changes if c.kind == kind)


def read_result(path: str | Path) -> VerificationResult:
    """The result in a report folder or JSON file. Raises ``ReportError`` if there is none or it is broken."""
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    text = read_text(file, DocumentLimits(), error=ReportError, remedy="name a report folder")
    return VerificationResult.from_json(text, str(file))


def check_written(result: VerificationResult, folder: Path) -> None:
    """Raise ``ReportError`` unless the report in ``folder`` reads back as ``result``."""
    if read_result(folder).to_dict() != result.to_dict():
        raise ReportError(f"{folder / 'report.json'} does not read back as it was written; --resume goes on from here")


def compare(before: VerificationResult, after: VerificationResult) -> Comparison:
    """Compare two runs, model by model and check by check."""
    old = {(v.source, v.check): v for v in before.verdicts}
    new = {(v.source, v.check): v for v in after.verdicts}
    keys = dict.fromkeys([*new, *old])
    changes = tuple(Change(source, check, old.get((source, check)), new.get((source, check))) for source, check in keys)
    differences = _differences("settings", before.settings, after.settings)
    differences += _differences("versions", before.versions, after.versions)
    facts = {c.source: c.facts for c in before.cases}
    for case in after.cases:
        if case.source in facts:
            differences += _differences(case.source, _sizes(facts[case.source]), _sizes(case.facts))
    return Comparison(changes, tuple(differences))


def _sizes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a case that are worth comparing."""
    result = {k: facts[k] for k in ("parameters_before", "parameters_after", "expansions") if k in facts}
    for row in facts.get("sizes", ()):
        result[f"{row['role']} of {row['where'] or 'the residual stream'}"] = f"{row['before']} → {row['after']}"
    return result


def _differences(where: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(f"{where} {key}".replace("_", " "), _text(before.get(key)), _text(after.get(key)))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _text(value: Any) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def render_comparison(comparison: Comparison, before: VerificationResult, after: VerificationResult) -> str:
    """Two runs side by side as one string."""
    return render("compare.html.j2", comparison=comparison, before=before, after=after)

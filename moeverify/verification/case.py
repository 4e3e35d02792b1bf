"""One case: load a source, let the subject prune it, run the checks. Runs in a process of its own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from moeverify.checks import default_names
from moeverify.errors import SourceError
from moeverify.evaluation.settings import QualitySettings
from moeverify.verdict import Status, Verdict
from moeverify.verification.settings import Settings

IMPORT, LOADING, PRUNE = "import", "load", "prune"


@dataclass(frozen=True)
class Named:
    """First field of a case: the name of its model."""

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
        result: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        result |= {name: tuple(value) for name, value in result.items() if isinstance(value, list)}
        if "quality" in result:
            result["quality"] = QualitySettings.from_dict(result["quality"])
        return cls(**result)

    def check_names(self) -> tuple[str, ...]:
        """The checks to run, in the report's order."""
        return self.left or self.checks or default_names()

    def subject_options(self) -> dict[str, Any]:
        """The options that reach the subject.

        Raises ``UsageError`` for an importance, a criterion or statistics that are none.
        """
        from moeverify.pruning.experts.scorer import evidence_from
        from moeverify.subjects.options import given_options

        ranked_by = evidence_from(
            self.calibration,
            self.statistics,
            samples=self.calibration_samples,
            length=self.calibration_length,
            seed=self.seed,
            tokenizer=self._tokenizer(),
        )
        return given_options(
            self.ratios, self.round_to, self.importance, self.expert_criterion, ranked_by, ignore=self.ignore
        )

    def _tokenizer(self) -> str | None:
        from moeverify.models.sources import tokenizer_of

        try:
            return tokenizer_of(self.source)
        except SourceError:  # a model given as an object
            return None

    def reproduce(self) -> str:
        """A command that runs this case again as it stands; empty if no command can."""
        if self.again is not None:
            return self.again
        line = shlex.join(["moeverify", "verify", self.source, *self.words()])
        return f"PYTHONPATH={shlex.quote(self.python_path)}:$PYTHONPATH {line}" if self.python_path else line


def verdict_of(
    case: Case, check: str, status: Status, message: str, evidence: Mapping[str, Any], seconds: float = 0.0
) -> Verdict:
    """A verdict on ``case``."""
    return Verdict(case.source, case.subject, check, status, message, evidence, case.reproduce(), seconds)

"""The outcome of one evaluation: scores with their standard errors, and all that a comparison must agree in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeverify.errors import EvaluationError
from moeverify.evaluation.settings import EvaluationSettings


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    ``chance`` is what guessing scores, if that is known. ``values`` holds the metric of each document, in lm-eval's
    order, where the metric is their mean; else it is empty. ``primary`` marks the task's first metric.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool
    documents: int
    chance: float | None = None
    values: tuple[float, ...] = ()
    primary: bool = True

    @property
    def name(self) -> str:
        """Task and metric."""
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model under given settings.

    ``versions`` are those of lm-eval and of each task, ``documents_hash`` is a digest of what each task asked.
    """

    settings: EvaluationSettings
    versions: Mapping[str, str]
    documents_hash: Mapping[str, str]
    scores: tuple[Score, ...]

    @property
    def primary(self) -> tuple[Score, ...]:
        """The first metric of each task."""
        return tuple(s for s in self.scores if s.primary)

    @property
    def mean(self) -> float | None:
        """Mean of the primary scores of which higher is better; ``None`` if there are none."""
        values = [s.value for s in self.primary if s.higher_is_better]
        return sum(values) / len(values) if values else None

    def __getitem__(self, task: str) -> Score:
        """The primary score of a task."""
        return next(s for s in self.primary if s.task == task)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "settings": self.settings.to_dict(),
            "versions": dict(self.versions),
            "documents_hash": dict(self.documents_hash),
            "scores": [{**asdict(s), "values": list(s.values)} for s in self.scores],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``to_dict``. Raises ``EvaluationError`` if it is something else."""
        try:
            return cls(
                settings=EvaluationSettings.from_dict(data["settings"]),
                versions=dict(data["versions"]),
                documents_hash=dict(data["documents_hash"]),
                scores=tuple(Score(**{**s, "values": tuple(s["values"])}) for s in data["scores"]),
            )
        except (KeyError, TypeError) as error:
            raise EvaluationError(f"not an evaluation: {type(error).__name__}: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """Read a file that ``write`` wrote. Raises ``EvaluationError`` with one line if that cannot be done."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text("utf-8")))
        except OSError as error:
            raise EvaluationError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise EvaluationError(f"{path} is not valid JSON: {error}") from error

    def write(self, path: str | Path) -> Path:
        """Write as JSON."""
        from moeverify.base.files import write_text

        return write_text(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")

"""The outcome of one evaluation: scores with their standard errors, and all that a comparison must agree in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeverify.base.documents import DocumentLimits, read_document
from moeverify.base.foreign import left_by
from moeverify.errors import EvaluationError, UsageError
from moeverify.evaluation.settings import EvaluationSettings

_TEXT = {"type": "string"}
_NUMBER_OR_NONE = {"type": ["number", "null"]}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["settings", "versions", "documents_hash", "scores"],
    "properties": {
        "settings": {
            "type": "object",
            "required": ["tasks"],
            "additionalProperties": False,
            "properties": {
                "tasks": {"type": "array", "minItems": 1, "items": _TEXT},
                "num_fewshot": {"type": ["integer", "null"]},
                "limit": _NUMBER_OR_NONE,
                "seed": {"type": "integer"},
                "batch_size": {"type": "integer"},
            },
        },
        "versions": {"type": "object"},
        "documents_hash": {"type": "object", "additionalProperties": _TEXT},
        "scores": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["task", "metric", "value", "stderr", "higher_is_better", "documents", "values"],
                "additionalProperties": False,
                "properties": {
                    "task": _TEXT,
                    "metric": _TEXT,
                    "value": {"type": "number"},
                    "stderr": _NUMBER_OR_NONE,
                    "higher_is_better": {"type": "boolean"},
                    "documents": {"type": "integer", "minimum": 0},
                    "chance": _NUMBER_OR_NONE,
                    "values": {"type": "array", "items": {"type": "number"}},
                    "primary": {"type": "boolean"},
                },
            },
        },
    },
}


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
            "scores": [{**asdict(s), "stderr": _finite(s.stderr), "values": list(s.values)} for s in self.scores],
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
        except (KeyError, TypeError, UsageError) as error:
            raise EvaluationError(f"not an evaluation: {left_by(error)}") from error

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """Read a file that ``write`` wrote. Raises ``EvaluationError`` with one line if that cannot be done."""
        data = read_document(path, _SCHEMA, DocumentLimits(), kind="evaluation", error=EvaluationError)
        return cls.from_dict(data)

    def write(self, path: str | Path) -> Path:
        """Write as JSON."""
        from moeverify.base.files import write_text

        return write_text(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")


def _finite(value: float | None) -> float | None:
    """The value, or ``None`` where it is NaN: the standard error of a single document."""
    return value if value is not None and math.isfinite(value) else None

"""Settings of an evaluation: everything that must be the same for two evaluations to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from moeverify.base.options import Option, option
from moeverify.base.words import words
from moeverify.errors import UsageError

LOCAL_LIMIT = 100
LOCAL_CURVE = (0.125, 0.25, 0.5)


@dataclass(frozen=True)
class EvaluationSettings:
    """lm-eval tasks by name, and lm-eval's own arguments.

    ``tasks`` are names of lm-eval tasks, groups or tags; ``small`` is the tag of the local ones. ``limit`` is the
    number of documents of each task (a share of them below 1), ``None`` for all. ``seed`` seeds Python, NumPy, torch
    and the choice of few-shot examples.
    """

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: float | None = None
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no lm-eval task is named; give --tasks, such as arc_easy,hellaswag")
        if self.limit is not None and not self.limit > 0:
            raise UsageError(f"the limit of documents must be positive, not {self.limit!r}")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UsageError(f"the number of few-shot examples cannot be {self.num_fewshot!r}")
        if self.batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {self.batch_size!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {**asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EvaluationSettings:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "tasks": tuple(data["tasks"])})


@dataclass(frozen=True)
class QualitySettings:
    """Settings of the ``quality`` check: tasks, and the limits for the pruned model.

    Without ``tasks`` a source that has tasks of its own (``small``) is evaluated on those. ``max_drop`` is the largest
    drop of any task's score that is allowed, as a share of one (0.05: five points). Without it the pruned model must do
    no worse than one that lost as many channels at random. ``curve`` names further ratios to prune the original at.
    """

    tasks: tuple[str, ...] = option(
        (), "", Option("tasks", str, "", "lm-eval tasks of the check quality, separated by commas."),
        read=lambda values: tuple(words(values["tasks"] or "")),
        write=lambda tasks: _joined("--tasks", tasks))  # fmt: skip
    num_fewshot: int | None = option(None, "Examples before each question; each task's own number.", kind=int, low=0)
    limit: float | None = option(None, "Documents of each task, or a share of them below 1; all.", kind=float)
    batch_size: int = option(64, "Documents that lm-eval runs at a time.", kind=int, low=1)
    max_drop: float | None = option(None, "Loss of score that quality allows, 0.05: five points.", kind=float)
    curve: tuple[float, ...] | None = option(
        None, "", Option("curve", str, "", "More ratios to evaluate quality at, separated by commas."),
        read=lambda values: parse_ratios(values["curve"]) if values["curve"] else None,
        write=lambda curve: _joined("--curve", curve))  # fmt: skip

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise UsageError(f"the allowed drop must lie between 0 and 1, not {self.max_drop!r}")
        for ratio in self.curve or ():
            if not 0 < ratio < 1:
                raise UsageError(f"the ratios of the curve must lie strictly between 0 and 1, not {ratio!r}")
        if self.tasks:
            self.evaluation(0)

    def evaluation(self, seed: int) -> EvaluationSettings:
        """Request to lm-eval. Raises ``UsageError`` for values that cannot be meant."""
        return EvaluationSettings(self.tasks, self.num_fewshot, self.limit, seed, self.batch_size)

    def or_local(self, tasks: tuple[str, ...]) -> QualitySettings:
        """These settings; if they name no tasks, with those of the source, and a limit and curve for small tasks."""
        if self.tasks or not tasks:
            return self
        limit = LOCAL_LIMIT if self.limit is None else self.limit
        return replace(self, tasks=tasks, limit=limit, curve=LOCAL_CURVE if self.curve is None else self.curve)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualitySettings:
        """The inverse of ``dataclasses.asdict``, also after JSON."""
        curve = data.get("curve")
        return cls(**{**data, "tasks": tuple(data.get("tasks", ())), "curve": None if curve is None else tuple(curve)})


def parse_ratios(text: str) -> tuple[float, ...]:
    """Numbers separated by commas. Raises ``UsageError`` with one line for anything else."""
    try:
        return tuple(float(word) for word in words(text))
    except ValueError:
        raise UsageError(f"ratios must be numbers separated by commas, such as 0.25,0.5, not {text!r}") from None


def _joined(flag: str, values: tuple[object, ...] | None) -> list[str]:
    return [flag, ",".join(map(str, values))] if values else []

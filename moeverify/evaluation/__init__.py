"""lm-eval before and after pruning. ``evaluate`` is imported when it is first used: it needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeverify.evaluation.compare import Difference, compare
from moeverify.evaluation.scores import Evaluation, Score
from moeverify.evaluation.settings import EvaluationSettings, QualitySettings

if TYPE_CHECKING:
    from moeverify.evaluation.harness import evaluate as evaluate

__all__ = ["Difference", "Evaluation", "EvaluationSettings", "QualitySettings", "Score", "compare", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import ``evaluate`` from its module, which imports torch."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from moeverify.evaluation.harness import evaluate

    return evaluate

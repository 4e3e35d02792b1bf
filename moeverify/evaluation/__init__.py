"""lm-eval before and after pruning."""

from moeverify.evaluation.compare import Difference, compare
from moeverify.evaluation.harness import evaluate
from moeverify.evaluation.scores import Evaluation, Score
from moeverify.evaluation.settings import EvaluationSettings, QualitySettings

__all__ = ["Difference", "Evaluation", "EvaluationSettings", "QualitySettings", "Score", "compare", "evaluate"]

"""Evaluate the model that a source names."""

from __future__ import annotations

from moeverify.errors import UsageError
from moeverify.evaluation.harness import evaluate
from moeverify.evaluation.scores import Evaluation
from moeverify.evaluation.settings import EvaluationSettings
from moeverify.evaluation.tokenizer import load_tokenizer
from moeverify.models.sources import load_source, parse_dtype


def evaluate_source(
    source: str,
    settings: EvaluationSettings,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Evaluation:
    """Load a source with its tokenizer and evaluate it.

    Raises ``SourceError`` if it cannot be loaded, ``UsageError`` if it has no tokenizer, ``EvaluationError`` as
    ``evaluate`` does.
    """
    loaded = load_source(
        source, seed=settings.seed, dtype=parse_dtype(dtype), device=device, trust_remote_code=trust_remote_code
    )
    if loaded.tokenizer is None:
        raise UsageError(f"{source} has no tokenizer, so it cannot read text; use small, a checkpoint or a hub name")
    return evaluate(loaded.model, load_tokenizer(loaded.tokenizer), settings)

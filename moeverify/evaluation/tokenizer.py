"""A source's tokenizer."""

from __future__ import annotations

from typing import Any

from moeverify.errors import EvaluationError


def load_tokenizer(where: str) -> Any:
    """The tokenizer in a folder or of a hub name. Raises ``EvaluationError`` with one line if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise EvaluationError(f"cannot load the tokenizer of {where}: {type(error).__name__}: {line}") from error

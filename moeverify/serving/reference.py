"""Answers of transformers: the distribution of the next token after each prompt, for a checkpoint folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeverify.errors import EngineError
from moeverify.models.sources import quiet_transformers

PROMPTS, LENGTH = 8, 16


def draw_prompts(vocabulary: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Prompts of tokens drawn alike; the first ids are left out where there are enough, since they are special."""
    first = 8 if vocabulary >= 64 else 0
    drawn = np.random.default_rng(seed).integers(first, vocabulary, (PROMPTS, LENGTH))
    return tuple(tuple(int(token) for token in row) for row in drawn)


def log_probabilities(folder: Path, prompts: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Log-probabilities ``[prompts, vocabulary]`` of a float32 forward.

    Raises ``EngineError`` if transformers does not run it.
    """
    try:
        with _load(folder) as model, torch.no_grad():
            ids = torch.tensor(prompts)
            logits = model(input_ids=ids, use_cache=False).logits[:, -1]
            logprobs: np.ndarray = logits.double().log_softmax(-1).numpy()
    except EngineError:
        raise
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EngineError(f"transformers does not run it: {line}") from error
    return logprobs


@contextmanager
def _load(folder: Path) -> Iterator[Any]:
    import transformers

    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if config.get("model_type") == "synthetic_moe":
            import synthetic_models  # noqa: F401  registers the type
        name = (config.get("architectures") or [""])[0] or ""
        kind = getattr(transformers, name, transformers.AutoModelForCausalLM)
        yield kind.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager").eval()


def vocabulary_of(folder: Path) -> int:
    """Number of token ids. Raises ``EngineError`` if the configuration does not give it."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{folder} has no configuration that can be read") from error
    for part in (config, config.get("text_config") or {}):
        if isinstance(size := part.get("vocab_size"), int):
            return size
    raise EngineError(f"the configuration in {folder} names no vocab_size; it is no language model")

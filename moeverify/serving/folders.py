"""Checkpoint folders as engines take them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from moeverify.models.engines.limit import exceeded_by, note
from moeverify.serving.registry import Engine

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "added_tokens.json")


def write_folder(model: Any, folder: Path, tokenizer: str | None = None) -> Path:
    """Save a model of transformers with a tokenizer: the files of a folder, else a stand-in."""
    model.save_pretrained(folder)
    add_tokenizer(folder, tokenizer)
    return folder


def add_tokenizer(folder: Path, tokenizer: str | None = None) -> None:
    """Put a tokenizer beside a model that has none."""
    if any(folder.glob("tokenizer*")):
        return
    source = Path(tokenizer) if tokenizer else None
    if source is not None and source.is_dir():
        for pattern in _TOKENIZER_FILES:
            for path in source.glob(pattern):
                shutil.copy(path, folder / path.name)
    if not any(folder.glob("tokenizer*")):
        write_stand_in(folder)


def write_stand_in(folder: Path) -> None:
    """A tokenizer with a word ``tN`` for each token, so that programs that insist on one load the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from moeverify.serving.reference import vocabulary_of

    size = vocabulary_of(folder)
    words = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, size))][:size]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(zip(("unk_token", "bos_token", "eos_token"), words, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)


def outside(engine: Engine, folder: Path) -> list[str]:
    """One note for each limit of an engine that the checkpoint in a folder falls outside of."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [note(limit, config) for limit in exceeded_by(engine.limits, config)]

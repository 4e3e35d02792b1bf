"""Checkpoint folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from moeverify.errors import UsageError

# What a checkpoint holds beside its weights and its configuration.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "LICENSE*",
)


def check_target(path: str | Path, *, overwrite: bool = False) -> Path:
    """The folder to write. Raises ``UsageError`` if something is there already or its parent cannot be written."""
    target = Path(path).expanduser()
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; give a folder to save the model in")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise UsageError(f"{target} is not empty; choose another folder, or replace it with --overwrite")
    existing = next(p for p in (target.absolute(), *target.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{existing} cannot be written; choose another folder")
    return target


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends, and vanishes if it raises.

    Raises ``UsageError`` if the disk does not take it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        try:
            yield beside
            os.chmod(beside, 0o755)
            if target.exists():
                old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
                os.rename(target, old / "folder")
                os.rename(beside, target)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(beside, target)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer and other companions of a checkpoint that ``target`` does not have yet."""
    for pattern in _COMPANIONS:
        for file in source.glob(pattern):
            if file.is_file() and not (target / file.name).exists() and file.suffix != ".safetensors":
                shutil.copyfile(file, target / file.name)

"""Questions to engines, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = 20


@dataclass(frozen=True)
class Question:
    """Question to an engine: prompts of token ids, for each folder."""

    folders: tuple[Path, ...]
    prompts: tuple[tuple[int, ...], ...]
    top: int = TOP
    dtype: str = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Answer:
    """Answer of an engine for one folder.

    Attributes:
        folder: the checkpoint.
        distributions: for each prompt, log-probability by token of the most likely next tokens.
        refused: why there are none, in the engine's words.
        undecided: whether it was stopped from outside (time, memory), which proves nothing about the folder.
        version: of the engine.
        facts: what else the worker reports.

    """

    folder: Path
    distributions: tuple[Mapping[int, float], ...] = ()
    refused: str = ""
    undecided: bool = False
    version: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def served(self) -> bool:
        """Whether it answered."""
        return not self.refused

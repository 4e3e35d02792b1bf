"""The catalogue of folders as public tools write them: what a case is, and how it enters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ToolCase:
    """``make`` writes ``base`` and ``pruned`` into a folder. A wrong one names the relation and words of its line."""

    name: str
    make: Callable[[Path], None]
    relation: str = ""
    words: str = ""


RIGHT: list[ToolCase] = []
WRONG: list[ToolCase] = []


def right(make: Callable[[Path], None]) -> None:
    RIGHT.append(ToolCase(make.__name__.replace("_", "-"), make))


def wrong(relation: str, words: str) -> Callable[[Callable[[Path], None]], None]:
    return lambda make: WRONG.append(ToolCase(make.__name__.replace("_", "-"), make, relation, words))

"""The catalogue of pruned folders: what a case is, how it enters, and how its pair of folders is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from foundry import Draft


@dataclass(frozen=True)
class Case:
    name: str
    model_type: str
    make: Callable[[Path, Draft], Draft | None]
    relation: str = ""
    words: str = ""


RIGHT: list[Case] = []
WRONG: list[Case] = []


@lru_cache(maxsize=32)
def base_of(model_type: str) -> Draft:
    return Draft.of(model_type)


def write(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the pair; a maker that returns a draft leaves the writing to us."""
    base, pruned = folder / "base", folder / "pruned"
    made = case.make(folder, base_of(case.model_type).copy())
    if made is not None:
        made.write(pruned)
    if not base.exists():
        base_of(case.model_type).write(base)
    return base, pruned


def right(name: str, *model_types: str):
    def add(make):
        RIGHT.extend(Case(f"{name}-{t}", t, make) for t in model_types)
        return make

    return add


def wrong(name: str, model_type: str, relation: str, words: str = ""):
    def add(make):
        WRONG.append(Case(name, model_type, make, relation, words))
        return make

    return add


def duplicate_names() -> list[str]:
    """Names that stand twice in the catalogue (there must be none)."""
    names = [case.name for case in (*RIGHT, *WRONG)]
    return sorted({n for n in names if names.count(n) > 1})

"""Mutants of what a rule states for one call, and the statement in the rule's source behind each of them.

Nothing here knows the rules: a mutant is made from the relations that a rule left.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moeverify.coupling import rules
from moeverify.coupling.relations import Relations
from tests.moeverify.coupling.rules.removal import OneCall, Stated, state

FOLDER = str(Path(rules.__file__).parent)
KINDS = ("equals", "segments", "products", "freezes", "balances")
STATEMENTS = {"equal", "equal_all", "segment", "product", "freeze", "freeze_all"}


@dataclass(frozen=True, order=True)
class Site:
    """A statement of a rule: file and line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"moeverify/coupling/rules/{self.file}:{self.line}"


class _Watched(list):
    """A list of relations that remembers which statement of a rule added each."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []

    def append(self, item: Any) -> None:
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(FOLDER):
            frame = frame.f_back
        assert frame is not None
        self.sites.append(Site(Path(frame.f_code.co_filename).name, frame.f_lineno))
        super().append(item)


@dataclass
class WatchedRelations(Relations):
    """Relations whose every entry knows its statement."""

    equals: Any = field(default_factory=_Watched)
    segments: Any = field(default_factory=_Watched)
    products: Any = field(default_factory=_Watched)
    freezes: Any = field(default_factory=_Watched)
    balances: Any = field(default_factory=_Watched)


@dataclass(frozen=True, eq=False)
class Mutant:
    """One change to what a statement said: ``kind`` is ``drop``, ``shift`` or ``swap``."""

    kind: str
    site: Site
    stated: Stated
    dropped: tuple[Any, ...] = ()


def watched(call: OneCall) -> Stated:
    """What the rule of a call states, with the statement behind each relation."""
    return state(call, WatchedRelations())


def mutants(stated: Stated) -> Iterator[Mutant]:
    """Every relation dropped alone, all those of one statement dropped, segments shifted, factors swapped."""
    for kind in KINDS:
        entries = getattr(stated.relations, kind)
        sites = entries.sites
        alone = [(site, {number}) for number, site in enumerate(sites)]
        whole = [(site, {i for i, s in enumerate(sites) if s == site}) for site in dict.fromkeys(sites)]
        for site, gone in alone + [(site, numbers) for site, numbers in whole if len(numbers) > 1]:
            rest = [entry for i, entry in enumerate(entries) if i not in gone]
            dropped = tuple(entry for i, entry in enumerate(entries) if i in gone) if kind == "freezes" else ()
            yield Mutant("drop", site, _with(stated, kind, rest), dropped)
    for number, site in enumerate(stated.relations.segments.sites):
        yield from _changed(stated, "segments", number, "shift", site, _shifted(stated.relations))
    for number, site in enumerate(stated.relations.products.sites):
        yield from _changed(stated, "products", number, "swap", site, _swapped)


def _with(stated: Stated, kind: str, entries: list) -> Stated:
    own = {k: list(getattr(stated.relations, k)) for k in KINDS} | {kind: entries}
    relations = Relations(sizes=list(stated.relations.sizes), operations=list(stated.relations.operations), **own)
    return Stated(stated.call, relations, stated.tensors, stated.result)


def _changed(
    stated: Stated, kind: str, number: int, name: str, site: Site, change: Callable[[Any], Any]
) -> Iterator[Mutant]:
    entries = list(getattr(stated.relations, kind))
    new = change(entries[number])
    if new is not None:
        entries[number] = new
        yield Mutant(name, site, _with(stated, kind, entries))


def _shifted(relations: Relations) -> Callable[[Any], Any]:
    def shift(segment: Any) -> Any:
        last = segment.start + segment.step * (relations.sizes[segment.part] - 1)
        if last + 1 < relations.sizes[segment.whole]:
            return replace(segment, start=segment.start + 1)
        return replace(segment, start=segment.start - 1) if segment.start else None

    return shift


def _swapped(product: Any) -> Any:
    return replace(product, factors=product.factors[::-1])


def outcome(stated: Stated) -> Any:
    """What a solution says, comparable: mutants with the outcome of the original change nothing."""
    classes, frozen = stated.solve()
    return (
        sorted(sorted((m.parameter, m.dim, m.positions.tolist()) for m in c.members) for c in classes),
        sorted((f.parameter, f.dim, list(f.positions)) for f in frozen),
    )


def statements() -> set[Site]:
    """Every statement in the source of the rules, by its first line."""
    found = set()
    for path in Path(FOLDER).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STATEMENTS:
                if isinstance(node.func.value, ast.Name) and node.func.value.id == "relations":
                    found.add(Site(path.name, node.lineno))
            elif isinstance(node, ast.Attribute) and node.attr == "balances":
                found.add(Site(path.name, node.lineno))
    return found

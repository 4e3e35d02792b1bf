"""The relations under their stable names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeverify.checks.registry import Finding
from moeverify.verdict import Status

if TYPE_CHECKING:
    from moeverify.certification.evidence import Evidence, Options

Relation = Callable[["Evidence"], Finding]
RELATIONS: dict[str, Relation] = {}
_WHEN: dict[str, Callable[[Options], bool]] = {}


_LONGEST = 600


def relation(name: str, when: Callable[[Options], bool] = lambda options: True) -> Callable[[Relation], Relation]:
    """Register a relation under its stable name; ``when`` returns whether the user's options ask for it."""

    def register(function: Relation) -> Relation:
        RELATIONS[name] = function
        _WHEN[name] = when
        return function

    return register


def relations_for(options: Options) -> dict[str, Relation]:
    """The relations to judge, in the order of the report."""
    return {name: judge for name, judge in RELATIONS.items() if _WHEN[name](options)}


def inconclusive(reason: str, **evidence: Any) -> Finding:
    """The relation applies but cannot be seen. ``reason``: why, and what would make it visible."""
    return Finding(Status.INCONCLUSIVE, reason, evidence)


def more(lines: list[str], first: int = 1) -> str:
    """The first line, and how many more there are. Names of strangers may be long: the line is cut.

    >>> more(["a is missing", "b is missing", "c is missing"])
    'a is missing (and 2 more)'
    """
    line = lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][:_LONGEST]}..."
    return line + (f" (and {len(lines) - first} more)" if len(lines) > first else "")

"""Entries as engines read them: each engine takes the first of several names of one entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moeverify.models.engines.entries import ANY_EXPERTS, PER_TOKEN, is_number, parts, read_by


def contradictions(config: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    """Names of one entry that have different values here but not in the base."""
    theirs = {names for part in parts(base) for names in _differing(part)}
    for part in parts(config):
        for names in _differing(part):
            if names in theirs:
                continue
            values = " and ".join(f"{name} = {part[name]}" for name in names)
            taken = ", ".join(f"{engine} takes {read['experts']}" for engine, read in read_by(part).items())
            yield f"config.json has {values}: engines differ in which they read" + (
                f" ({taken})" if names[0] not in PER_TOKEN else ""
            )


def _differing(part: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for family in (tuple(sorted(ANY_EXPERTS)), PER_TOKEN):
        names = tuple(name for name in family if is_number(part.get(name)))
        if len({part[name] for name in names}) > 1:
            yield names

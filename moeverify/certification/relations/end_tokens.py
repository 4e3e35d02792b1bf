"""Tokens that end a generation: no output depends on them, but what users see does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moeverify.base.documents import CONFIGURATION, read_document
from moeverify.certification.evidence import Evidence
from moeverify.errors import MoEVerifyError

_KEY, _FILE = "eos_token_id", "generation_config.json"


def other_ends(evidence: Evidence) -> Iterator[str]:
    """Where the folder ends a generation at other tokens than the base, one line for each file that says so."""
    sides = evidence.base_inventory.config, evidence.inventory.config
    yield from _line("config.json", *sides)
    yield from _line(_FILE, *(_generation(folder) for folder in (evidence.base_folder, evidence.pruned_folder)))


def lost_ends(evidence: Evidence) -> Iterator[str]:
    """Tokens that end a generation but went with a cut vocabulary: it would never end."""
    try:
        tokens = evidence.keep.tokens
    except MoEVerifyError:
        return
    if tokens is None:
        return
    configs = {"config.json": evidence.inventory.config, _FILE: _generation(evidence.pruned_folder)}
    for file, config in configs.items():
        ends = config.get(_KEY)
        ends = [n for n in (ends if isinstance(ends, list) else [ends]) if isinstance(n, int)]
        if ends and min(ends) >= len(tokens):
            yield f"{file}: {_KEY} is {ends[0]}, but {len(tokens)} tokens are left: a generation would never end"


def _line(file: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if _KEY in before and _KEY in after and _tokens(before[_KEY]) != _tokens(after[_KEY]):
        told = f"{_KEY}: {before[_KEY]!r} in the base, {after[_KEY]!r} here"
        yield f"generation ends at other tokens ({file}: {told[:200]})"


def _tokens(value: Any) -> list[str]:
    return sorted(map(repr, value if isinstance(value, list) else [value]))


def _generation(folder: Path) -> Mapping[str, Any]:
    """What a folder says about generation; nothing if that cannot be read."""
    try:
        document = read_document(folder / _FILE, None, CONFIGURATION)
    except MoEVerifyError:
        return {}
    return document if isinstance(document, dict) else {}

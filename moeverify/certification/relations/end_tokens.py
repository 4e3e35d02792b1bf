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
    yield from _line(evidence, "config.json", *sides)
    sides = _generation(evidence.base_folder), _generation(evidence.pruned_folder)
    yield from _line(evidence, _FILE, *sides)


def lost_ends(evidence: Evidence) -> Iterator[str]:
    """Tokens that end a generation but went with a cut vocabulary or have another number: it would never end."""
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
        elif (wrong := _stale(evidence, file, ends)) is not None:
            now = evidence.token_claims.numbers[wrong]
            yield f"{file}: {_KEY} is {wrong} as in the base, but token {wrong} is the base's {now}"


def _stale(evidence: Evidence, file: str, ends: list[int]) -> int | None:
    """A number that ends a generation as in the base and is another token by now, if no other number is right.

    What ``generation_config.json`` says counts more than ``config.json``.
    """
    if file != _FILE and _KEY in _generation(evidence.pruned_folder):
        return None
    config = evidence.base_inventory.config if file != _FILE else _generation(evidence.base_folder)
    now = evidence.token_claims.numbers
    before = _tokens(config.get(_KEY))
    if _tokens(ends) != before or any(repr(now.get(n, n)) in before for n in ends):
        return None
    return next((n for n in ends if n in now), None)


def _follows(evidence: Evidence, before: Any, after: Any) -> bool:
    """Whether the tokens are those of the base under the numbers that the tokenizer gives them."""
    now = evidence.token_claims.numbers
    numbers = [n for n in (after if isinstance(after, list) else [after]) if isinstance(n, int)]
    return bool(now) and _tokens([now.get(n, n) for n in numbers]) == _tokens(before)


def _line(evidence: Evidence, file: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if _KEY not in before or _KEY not in after or _follows(evidence, before[_KEY], after[_KEY]):
        return
    if _tokens(before[_KEY]) != _tokens(after[_KEY]):
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

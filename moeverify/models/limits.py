"""Bounds of what a configuration may ask for, checked before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from moeverify.errors import MoEVerifyError, SourceError

# Name of an entry -> the most that it may say: several times what the largest published models say.
_MOST = (
    (re.compile(r"(^|_)(layers?|blocks?|depths?)$|(^|_)depth(_|$)|layers_block"), 2_000),
    (re.compile(r"experts?$|(^|_)experts?_per|(^|_)n_group$"), 20_000),
    (re.compile(r"heads?$|(^|_)streams?$"), 20_000),
    (re.compile(r"(hidden|intermediate|vocab|embed\w*|model|ffn|inner|state|expert)_(size|dim)s?$"), 20_000_000),
    (re.compile(r"(^|_)(dim|d_model|d_ff)$"), 20_000_000),
)
_ANY = 10**15
_LONGEST_LIST = 100_000


def check_sizes(document: Any, name: str, error: type[MoEVerifyError] = SourceError) -> None:
    """Raise ``error``, with the entry and its limit, if a configuration asks for more than any model has."""
    for path, value in _entries(document):
        if isinstance(value, list) and len(value) > _LONGEST_LIST:
            raise error(f"{name}: {path} has {len(value):,} entries; the limit is {_LONGEST_LIST:,}")
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        last = re.sub(r"\[\d+\]", "", path).rpartition(".")[2]
        most = next((limit for rule, limit in _MOST if rule.search(last)), _ANY)
        if value > most:
            raise error(f"{name}: {path} is {value:,}; the limit is {most:,}")


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Every entry with its path, without recursion."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        yield path, value
        if isinstance(value, Mapping):
            waiting += [(f"{path}.{key}".lstrip("."), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{number}]", inner) for number, inner in enumerate(value)]

"""Entries of a nested document, such as a configuration, by path.

A path holds keys and positions: ``("text_config", "hidden_size")`` or ``("intermediate_size", 3)``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

EntryPath = tuple[str | int, ...]
Document = dict[str, Any]


def entry_at(document: Mapping[str, Any], path: EntryPath) -> Any:
    """The entry at ``path``, ``None`` if there is none."""
    value: Any = document
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def with_entries(document: Mapping[str, Any], entries: Mapping[EntryPath, Any]) -> Document:
    """A copy of ``document`` with other values at some paths.

    >>> with_entries({"a": {"b": 4}, "c": (1, 2)}, {("a", "b"): 2, ("c", 1): 5})
    {'a': {'b': 2}, 'c': [1, 5]}
    """
    result = copy.deepcopy(dict(document))
    for path, value in entries.items():
        owner: Any = result
        for key in path[:-1]:
            if isinstance(owner[key], tuple):
                owner[key] = list(owner[key])
            owner = owner[key]
        owner[path[-1]] = value
    return result


def name_of(path: EntryPath) -> str:
    """A path as users write it.

    >>> name_of(("text_config", "layer_sizes", 3))
    'text_config.layer_sizes[3]'
    """
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")

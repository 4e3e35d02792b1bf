"""How many positions a configuration announces: fewer than in the base change nothing at those that are left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moeverify.certification.evidence import Evidence
from moeverify.certification.relations.entries import Entry, is_count

_KEY = "max_position_embeddings"


def announces_fewer(evidence: Evidence, entry: Entry) -> bool:
    """Whether an entry only announces fewer positions; tables of positions would show as shapes.

    Exception: rotary embeddings of another kind than the default one may compute with the number.
    """
    if entry.key != _KEY or not is_count(entry.before) or not is_count(entry.after) or entry.after < 1:
        return False
    kinds = set(_rotary(evidence.pruned.skeleton.config.to_dict()))
    return bool(entry.after < entry.before) and kinds == {"default"}


def shorter_context(evidence: Evidence) -> Iterator[str]:
    """The announced number of positions, if the folder lowers it."""
    before, after = (side.skeleton.config.get_text_config() for side in (evidence.base, evidence.pruned))
    old, new = getattr(before, _KEY, None), getattr(after, _KEY, None)
    if isinstance(old, int) and isinstance(new, int) and new < old:
        yield f"{_KEY} is {new}, in the base {old}: longer inputs are not announced"


def _rotary(config: Mapping[str, Any], inside: bool = False) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _rotary(value, inside or "rope" in str(key))
        elif inside and key in ("rope_type", "type"):
            yield str(value)

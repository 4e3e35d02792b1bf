"""Types that tensors are stored in: several in one kind (a layer or a file of another run), or a kind that was cast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from moeverify.certification.classify import kind_of
from moeverify.certification.matching.compare import PURE, Compared, Relation

_NAMED = 3


def mark_mixed(compared: Iterable[Compared]) -> Iterator[Compared]:
    """Mark what was cast to a shorter type than others of its kind are stored in."""
    items = list(compared)
    longest: dict[str, torch.dtype] = defaultdict(lambda: torch.uint8)
    for item in items:
        kind = kind_of(item.name)
        if item.relation in PURE and item.types[0].itemsize > longest[kind].itemsize:
            longest[kind] = item.types[0]
    for item in items:
        other = longest[kind_of(item.name)]
        if item.relation is Relation.CAST and item.types[0].itemsize < other.itemsize:
            words = type_name(item.types[0]), type_name(other)
            detail = "is stored as {}, others of its kind as {}: whether that is meant cannot be seen".format(*words)
            item = replace(item, relation=Relation.MIXED, detail=detail)
        yield item


def cast_words(compared: Iterable[Compared], before: Mapping[str, torch.dtype]) -> str:
    """Which kinds of tensors changed their type; ``before``: types in the base, by name there. Empty if none did.

    A change of most is named with its exceptions: "cast from float32 to bfloat16, but for model.norm.weight (float32)".
    """
    changes: dict[tuple[torch.dtype, torch.dtype], dict[str, None]] = defaultdict(dict)
    same: dict[str, torch.dtype] = {}
    for item in compared:
        if item.relation not in (*PURE, Relation.MIXED) or not item.types[-1].is_floating_point:
            continue
        old, new = before.get(item.base_name, item.types[0]), item.types[0]
        if item.relation is Relation.EQUAL or old == new:
            same[kind_of(item.name)] = new
        else:
            changes[old, new][kind_of(item.name)] = None
    if len(changes) == 1 and len(same) < len(next(iter(changes.values()))):
        pair = next(iter(changes))
        rest = f", but for {_first([f'{kind} ({type_name(dtype)})' for kind, dtype in same.items()])}" if same else ""
        return f"cast from {type_name(pair[0])} to {type_name(pair[1])}{rest}"
    parts = [f"{_first(list(kinds))} from {type_name(a)} to {type_name(b)}" for (a, b), kinds in changes.items()]
    if not parts:
        return ""
    kept = f"; {len(same)} other kinds keep their type" if same else ""
    return f"cast in part: {', '.join(parts)}{kept}"


def type_name(dtype: torch.dtype) -> str:
    """The name of a type without its module."""
    return str(dtype).removeprefix("torch.")


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more kinds" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest

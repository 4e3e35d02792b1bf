"""Tensors of one kind that are stored in types of different precision: one layer, or one file, of another run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from moeverify.certification.classify import kind_of
from moeverify.certification.matching.compare import PURE, Compared, Relation


def mark_mixed(compared: Iterable[Compared], types: Mapping[str, torch.dtype]) -> Iterator[Compared]:
    """Mark what was cast to a shorter type than others of its kind are stored in; ``types`` by name in the model."""
    items = list(compared)
    longest: dict[str, torch.dtype] = defaultdict(lambda: torch.uint8)
    for item in items:
        kind = kind_of(item.name)
        if item.relation in PURE and types[item.name].itemsize > longest[kind].itemsize:
            longest[kind] = types[item.name]
    for item in items:
        stored, other = types[item.name], longest[kind_of(item.name)]
        if item.relation is Relation.CAST and stored.itemsize < other.itemsize:
            words = [str(dtype).removeprefix("torch.") for dtype in (stored, other)]
            detail = "is stored as {}, others of its kind as {}: whether that is meant cannot be seen".format(*words)
            item = replace(item, relation=Relation.MIXED, detail=detail)
        yield item

"""Configuration entries that the removal of whole layers changes, separated from those that other sizes change."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.base.entries import EntryPath, with_entries
from moeverify.base.foreign import left_by
from moeverify.certification.relations.entries import GROUPS, TOP_K, Entry, is_count
from moeverify.errors import PlanError
from moeverify.models.folder.skeleton import Skeleton, skeleton_of
from moeverify.models.module_lists import ListCut, differences, shorten


@dataclass(frozen=True)
class Entries:
    """``layers``: entries of the model that lost layers and nothing else. ``sizes``: whole numbers that change more."""

    layers: Mapping[EntryPath, Any]
    sizes: Mapping[EntryPath, int]


def split_entries(base: Skeleton, changed: Sequence[Entry], cuts: Sequence[ListCut]) -> Entries:
    """Divide the changed entries of a pruned folder, by building the base without the layers that are gone.

    Raises ``PlanError`` if no entries of the folder give that model.
    """
    layers: dict[EntryPath, Any] = {
        entry.path: kept for entry in changed if (kept := _of_kept(entry, cuts)) is not None
    }
    others = [entry for entry in changed if entry.path not in layers]
    short = copy.deepcopy(base.model)
    for cut in cuts:
        shorten(short, cut)
    while cuts and (lines := _differences(base, layers, short, cuts)):
        tried = [(_differences(base, {**layers, e.path: e.after}, short, cuts), e) for e in others]
        fewest, best = min(tried, key=lambda one: len(one[0]), default=(lines, None))
        if best is None or len(fewest) >= len(lines):
            raise PlanError(
                f"{type(base.config).__name__} has no model of the layers that were kept: {lines[0]}; "
                "--json - has the keep map"
            )
        layers[best.path] = best.after
        others.remove(best)
    sizes: dict[EntryPath, int] = {e.path: e.after for e in others if is_count(e.before) and is_count(e.after)}
    for entry in changed:
        items = layers.get(entry.path, entry.before)
        if isinstance(items, list | tuple) and isinstance(entry.after, list | tuple) and len(items) == len(entry.after):
            pairs = enumerate(zip(items, entry.after, strict=True))
            sizes |= {(*entry.path, n): new for n, (old, new) in pairs if old != new and is_count(new)}
    sizes = {path: value for path, value in sizes.items() if value >= 1}
    return Entries(layers, _needed(base, layers, sizes) if cuts else sizes)


def _needed(base: Skeleton, layers: Mapping[EntryPath, Any], sizes: Mapping[EntryPath, int]) -> dict[EntryPath, int]:
    """Sizes without which another model is built, and numbers of the router: others only follow the layers' numbers."""
    whole = _build(base, {**layers, **sizes})
    kept = {}
    for path, value in sizes.items():
        without = _build(base, {**layers, **{p: v for p, v in sizes.items() if p != path}})
        built = isinstance(whole, nn.Module) and isinstance(without, nn.Module)
        routing = TOP_K.search(str(path[-1])) or GROUPS.search(str(path[-1]))
        if routing or not built or next(differences(whole, without, ()), ""):
            kept[path] = value
    return kept


def _of_kept(entry: Entry, cuts: Sequence[ListCut]) -> list[Any] | None:
    """The items of the kept layers of a list with one item a layer; ``None`` for other entries."""
    if not isinstance(entry.before, list | tuple) or not isinstance(entry.after, list | tuple):
        return None
    for cut in cuts:
        if (len(entry.before), len(entry.after)) == (cut.before, len(cut.kept)):
            return [entry.before[n] for n in cut.kept]
    return None


def _differences(base: Skeleton, entries: Mapping[EntryPath, Any], short: Any, cuts: Sequence[ListCut]) -> list[str]:
    built = _build(base, entries)
    if isinstance(built, str):
        return [built] * (1 + len(base.shapes))  # further from the model than any other
    return list(differences(short, built, cuts))


def _build(base: Skeleton, entries: Mapping[EntryPath, Any]) -> Any:
    """The base's model under changed entries, or the line with which its class refuses them."""
    document = with_entries(base.config.to_dict(), entries)
    try:
        return skeleton_of(type(base.config).from_dict(document)).model
    except Exception as error:  # configuration classes raise what they like
        return left_by(error)

"""Expert axes found by the configuration: double the count on the meta device, and see which dimensions grow.

No table of architectures: correction biases, stacked biases, per-expert scales and router rows come out of it wherever
an architecture keeps them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from moeverify.base.entries import Document, EntryPath, entry_at, with_entries
from moeverify.errors import PruningRefused
from moeverify.models.roles import FoundRoles, MoELayer
from moeverify.models.skeleton import Shapes, shapes_of, skeleton
from moeverify.pruning.configuration import document as doc
from moeverify.pruning.experts.axes import CountedLayer, ExpertAxis, id_tables, listed_children

_COUNT_NAME = re.compile(r"expert", re.IGNORECASE)
_NO_COUNT_NAME = re.compile(r"per_tok|top_?k|shared|size|dim|period|offset|group|zero", re.IGNORECASE)


@dataclass(frozen=True)
class _Doubled:
    """Entries that were doubled together, and the shapes that came of it."""

    paths: tuple[EntryPath, ...]
    shapes: Shapes


def by_configuration(model: Any, roles: FoundRoles) -> tuple[CountedLayer, ...]:
    """Every MoE layer of ``model``, with the axes and entries that count experts, found by its configuration.

    Raises ``PruningRefused`` for a layer whose count no entry gives, or with a tensor that is not understood.
    """
    document = doc.document_of(model.config)
    counts = {len(layer.experts) for layer in roles.layers}
    base = shapes_of(skeleton(model, doc.config_from(model.config, document)))
    same = [path for path, value in doc.integers(document) if value in counts]
    tried = [one for path in same if (one := _double(model, document, (path,))) is not None]
    for number in counts:  # a count under two names that must agree
        named = tuple(p for p in same if entry_at(document, p) == number and _is_count(p))
        if len(named) > 1 and (one := _double(model, document, named)) is not None:
            tried.append(one)
    grown: dict[str, dict[str, ExpertAxis]] = {layer.name: {} for layer in roles.layers}
    entries: dict[str, tuple[EntryPath, ...]] = {}
    for one in tried:
        changed = _changed(base, one.shapes)
        sized = [x for x in roles.layers if x.name not in entries and _counts(x, base, one.shapes, changed)]
        entries |= {layer.name: one.paths for layer in sized}
        for name, dim in changed if sized else ():
            owner = _owner(name, sized, roles)
            if name.startswith(tuple(f"{e}." for e in owner.experts)) and owner.layout == "listed":
                continue
            axis = _axis(name, dim, base[name][dim], one.shapes[name][dim], owner)
            grown[owner.name][f"{name}:{dim}"] = axis
    config = type(model.config).__name__
    for layer in roles.layers:
        if layer.name not in entries:
            _refuse_product_keys(model, document, same, layer, base)
            raise PruningRefused(
                f"no entry of {config} gives the number of experts of {layer.container} together with the rows of "
                "their router, so none can be removed; leave whole experts out (ratios without `experts`)"
            )
    _refuse_lists(document, counts, config)
    effective = {path for paths in entries.values() for path in paths}
    names = {
        layer.name: _other_names(model, entries[layer.name], len(layer.experts), document, effective)
        for layer in roles.layers
    }
    return tuple(
        _counted(model, layer, grown[layer.name].values(), (*entries[layer.name], *names[layer.name]))
        for layer in roles.layers
    )


def _counted(
    model: nn.Module, layer: MoELayer, axes: Iterable[ExpertAxis], entries: tuple[EntryPath, ...]
) -> CountedLayer:
    axes = tuple(axes)
    return CountedLayer(layer, axes, listed_children(layer), id_tables(model, layer, axes), entries)


def _is_count(path: EntryPath) -> bool:
    words = [key for key in path if isinstance(key, str)]
    return bool(words and _COUNT_NAME.search(words[-1]) and not _NO_COUNT_NAME.search(words[-1]))


def _refuse_product_keys(
    model: Any, document: Document, paths: Iterable[EntryPath], layer: MoELayer, base: Shapes
) -> None:
    """Refuse by name a router with product keys: four times the experts, twice the rows of the router."""
    count = len(layer.experts)
    keys = math.isqrt(count)
    routers = tuple(f"{router}." for router in layer.routers)
    for path in paths:
        if entry_at(document, path) != count or (more := _double(model, document, (path,), times=4)) is None:
            continue
        rows = [n for n, d in _changed(base, more.shapes) if n.startswith(routers) and d == 0]
        twice = [n for n in rows if more.shapes[n][0] == 2 * base[n][0]]
        if twice and keys * keys == count:
            legal = " or ".join(str(n * n) for n in range(keys - 1, max(keys - 3, 0), -1))
            raise PruningRefused(
                f"{twice[0]} holds product keys: expert x * {keys} + y of {layer.container} is chosen by row x and row "
                f"y, so no row belongs to one expert. Only whole keys could go, which leaves a square ({legal} of "
                f"{count}), and removing keys is not supported; leave whole experts out (ratios without `experts`)"
            )


def _double(model: Any, document: Document, paths: tuple[EntryPath, ...], times: int = 2) -> _Doubled | None:
    entries = {path: times * entry_at(document, path) for path in paths}
    try:
        built = skeleton(model, doc.config_from(model.config, with_entries(document, entries)))
    except Exception:  # the architecture does not accept it
        return None
    return _Doubled(paths, shapes_of(built))


def _changed(base: Shapes, now: Shapes) -> list[tuple[str, int]]:
    return [
        (name, dim)
        for name, shape in base.items()
        if name in now and len(now[name]) == len(shape)
        for dim, (old, new) in enumerate(zip(shape, now[name], strict=True))
        if old != new
    ]


def _counts(layer: MoELayer, base: Shapes, now: Shapes, changed: list[tuple[str, int]]) -> bool:
    """Whether doubling made twice as many experts of a layer, with rows of a router for them."""
    count = len(layer.experts)
    if layer.layout == "listed":
        prefix = f"{layer.container}."
        held = {name.removeprefix(prefix).partition(".")[0] for name in now if name.startswith(prefix)}
        more = len(held) == 2 * count
    else:
        stacks = [name for name in layer.stacks if name in base]
        rest = count if layer.layout == "fused" else 0
        more = bool(stacks) and all(now.get(n) == _longer(base[n], layer.axis(n), rest) for n in stacks)
    return more and any(name.startswith(tuple(f"{r}." for r in layer.routers)) for name, _ in changed)


def _longer(shape: tuple[int, ...], dim: int, more: int) -> tuple[int, ...]:
    """A shape with ``more`` positions in a dimension; twice as many if that is zero."""
    return (*shape[:dim], shape[dim] + (more or shape[dim]), *shape[dim + 1 :])


def _owner(name: str, sized: list[MoELayer], roles: FoundRoles) -> MoELayer:
    """The MoE layer that a tensor which grew belongs to: the one it shares the longest path with."""
    parts = name.split(".")

    def common(path: str) -> int:
        return next((n for n, (a, b) in enumerate(zip(parts, path.split("."), strict=False)) if a != b), len(parts))

    def nearness(layer: MoELayer) -> int:
        if any(name.startswith(f"{path}.") for path in (*layer.holders, *layer.routers)):
            return len(parts) + 1
        return max(common(path) for path in (layer.name, layer.container, *layer.routers))

    ranked = sorted(((nearness(layer), layer) for layer in roles.layers), key=lambda x: -x[0])
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        raise PruningRefused(
            f"{name} counts experts, but of which of {ranked[0][1].name} and {ranked[1][1].name} is not known; leave "
            "whole experts out (ratios without `experts`)"
        )
    if ranked[0][1] not in sized:
        raise PruningRefused(
            f"{name} follows the number of experts of another layer than {ranked[0][1].name}, the nearest one; leave "
            "whole experts out (ratios without `experts`)"
        )
    return ranked[0][1]


def _axis(name: str, dim: int, old: int, new: int, layer: MoELayer) -> ExpertAxis:
    repeats, rest = divmod(new - old, len(layer.experts))
    if rest or repeats < 1 or old < repeats * len(layer.experts):
        raise PruningRefused(
            f"dimension {dim} of {name} grows from {old} to {new} with twice the experts, in a way that is not "
            "known; leave whole experts out (ratios without `experts`)"
        )
    if repeats > 1 and not (layer.layout == "rows" and name in layer.stacks and dim == layer.axis(name)):
        raise PruningRefused(
            f"dimension {dim} of {name} holds {repeats} positions for each expert, in an order that is not known; "
            "leave whole experts out (ratios without `experts`)"
        )
    return ExpertAxis(name, dim, old, repeats)


def _other_names(
    model: Any, entries: tuple[EntryPath, ...], count: int, document: Mapping, effective: Collection[EntryPath]
) -> tuple[EntryPath, ...]:
    """Further entries beside a layer's own that hold the same count under another name.

    Engines read different names, so none may keep the old number. Exception: entries that are ``effective`` for other
    layers are no other names.
    """
    result = []
    for path, value in doc.integers(document):  # type: ignore[arg-type]
        if path in effective or value != count or not _is_count(path) or isinstance(path[-1], int):
            continue
        aliases = set(getattr(type(model.config), "attribute_map", {}))
        if any(path[:-1] == entry[:-1] for entry in entries) or path[-1] in aliases:
            result.append(path)
    return tuple(result)


def _refuse_lists(document: Mapping, counts: set[int], config: str) -> None:
    """Lists in the configuration with one item for each expert are not understood."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            _refuse_lists(value, counts, config)
        elif isinstance(value, list | tuple) and len(value) in counts and _is_count((key,)):
            if all(type(item) is int and item in counts for item in value):
                continue  # one count for each layer
            raise PruningRefused(
                f"{key} of {config} has one item for each expert, and which items go with which "
                "experts is not known; leave whole experts out (ratios without `experts`)"
            )

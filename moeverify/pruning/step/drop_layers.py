"""Drop whole layers: shorten lists of modules, and update the configuration to the shorter model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from moeverify.base.entries import Document, EntryPath, entry_at, name_of, with_entries
from moeverify.base.foreign import left_by
from moeverify.errors import PruningRefused
from moeverify.models.limits import check_sizes
from moeverify.models.module_lists import ListCut, differences, shorten
from moeverify.models.skeleton import has_config, skeleton
from moeverify.pruning.configuration import ConfigUpdate, apply_update
from moeverify.pruning.configuration import document as doc
from moeverify.pruning.plan.layer_cut import LayerCut


def drop_layers(model: nn.Module, cut: LayerCut) -> None:
    """Drop layers in place. Raises ``PruningRefused``, with the model untouched, as ``layer_update`` does."""
    update = layer_update(model, cut)
    for one in cut.lists:
        shorten(model, one)
    apply_update(model, update)


def without_layers(model: nn.Module, cut: LayerCut) -> nn.Module:
    """A copy without the dropped layers, which shares all parameters and buffers with ``model``."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    short = copy.deepcopy(model, shared)
    drop_layers(short, cut)
    return short


def layer_update(model: nn.Module, cut: LayerCut) -> ConfigUpdate:
    """The update of the configuration to the shorter model.

    Raises ``PruningRefused`` if it does not build ``model`` without these layers, or if an entry is not needed for
    that.
    """
    if not has_config(model):
        raise PruningRefused("layers are dropped from models with a configuration; shorten the lists of this one first")
    for one in cut.lists:
        _check_list(model, one)
    document = doc.document_of(model.config)
    before = skeleton(model, model.config)
    for one in cut.lists:
        shorten(before, one)
    for path, value in cut.entries.items():
        _check_entry(document, path, value, cut)
    after = _built(model, document, cut.entries)
    if isinstance(after, str):
        raise PruningRefused(f"{type(model.config).__name__} has no model of the layers that are kept: {after}")
    for kind, built in (("", after), (" once it is written and loaded", _loaded(model, after))):
        if line := next(differences(before, built, cut.lists), ""):
            raise PruningRefused(
                f"the entries for the kept layers do not give a model of these layers{kind}: {line}; "
                f"see whether {type(model.config).__name__} can say them at all"
            )
    _check_needed(model, document, before, cut)
    return ConfigUpdate({}, before, after)


def _check_list(model: nn.Module, cut: ListCut) -> None:
    modules = dict(model.named_modules())
    if list(getattr(modules.get(cut.container), "_modules", ())) != list(cut.children):
        raise PruningRefused(f"{cut.container} is no list of {cut.before} modules, some of which could be dropped")


def _check_entry(document: Document, path: EntryPath, value: Any, cut: LayerCut) -> None:
    """An entry exists and is of the same kind; a list with one item for each layer keeps those of the kept layers."""
    old = entry_at(document, path)
    if old is None or isinstance(old, Mapping) or _kind(old) is not _kind(value):
        raise PruningRefused(f"the configuration has no entry {name_of(path)} that could become {value!r}")
    for one in cut.lists:
        if isinstance(old, list | tuple) and len(old) == one.before and len(value) == len(one.kept):
            kept = [old[n] for n in one.kept]
            if list(value) != kept:
                raise PruningRefused(f"{name_of(path)} becomes {list(value)}; of the layers kept it is {kept}")


def _kind(value: Any) -> type:
    return list if isinstance(value, tuple) else type(value)


def _check_needed(model: nn.Module, document: Document, before: nn.Module, cut: LayerCut) -> None:
    for path in cut.entries:
        old = entry_at(document, path)
        if isinstance(old, list | tuple) and len(old) in {one.before for one in cut.lists}:
            continue  # compared with the layers that are kept
        built = _built(model, document, {p: v for p, v in cut.entries.items() if p != path})
        if not isinstance(built, str) and next(differences(before, built, cut.lists), "") == "":
            raise PruningRefused(f"{name_of(path)} is set although the layers that are kept do not need that")


def _built(model: nn.Module, document: Document, entries: Mapping[EntryPath, Any]) -> nn.Module | str:
    """The skeleton under changed entries, or the line with which the architecture refuses them."""
    changed = with_entries(document, entries)
    check_sizes(changed, "the kept layers", PruningRefused)
    try:
        return skeleton(model, doc.config_from(model.config, changed))
    except Exception as error:
        return left_by(error)


def _loaded(model: nn.Module, built: Any) -> nn.Module:
    loaded = doc.config_from(built.config, doc.document_of(doc.written_and_loaded(built.config)))
    loaded.name_or_path = built.config.name_or_path  # where a configuration came from is never written
    return skeleton(model, loaded)

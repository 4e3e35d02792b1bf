"""Entries that a configuration leaves out, and the model derives: the size of a head, or the width of an expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from moeverify.base.entries import Document, EntryPath, with_entries
from moeverify.models.skeleton import Shapes
from moeverify.pruning.configuration import document as doc


class Trials(Protocol):
    """What a probe knows of one model, and its trials of changed entries."""

    config: Any
    document: Document
    base: Shapes
    original: nn.Module

    @property
    def names_read(self) -> frozenset[str]:
        """Names of all attributes that a build of the unchanged model asks of configurations."""

    def shapes(self, entries: Mapping[EntryPath, int]) -> Shapes | None:
        """Shapes under changed entries; ``None`` if the architecture does not accept the entries."""


def found_pins(probe: Trials) -> dict[EntryPath, int]:
    """Entries that set explicitly what the architecture otherwise derives.

    An entry that is absent or empty takes the value that modules of the model hold under its name. Exceptions:
    entries that change nothing, entries that build another model, and aliases of an entry in the document
    (``hidden_size`` beside ``d_model``).
    """
    aliases = getattr(type(probe.config), "attribute_map", {})
    absent = {
        name: values
        for name, values in _sizes_held(probe).items()
        if probe.document.get(name) is None and name not in aliases and len(values) <= 4
    }
    unread = {name: values for name, values in absent.items() if name not in probe.names_read}
    if not _changes_others(probe, {(name,): 2 * max(values) for name, values in unread.items()}):
        idle = set(unread)  # as is usual: one configuration shows it of all of them
    else:
        idle = {n for n, values in unread.items() if not any(_changes_others(probe, {(n,): 2 * v}) for v in values)}
    pins: dict[EntryPath, int] = {}
    for name, values in absent.items():
        for value in sorted(values) if name not in idle else ():
            pinned = {**pins, (name,): value}
            if probe.shapes(pinned) == probe.base and probe.shapes({**pinned, (name,): 2 * value}) != probe.base:
                pins = pinned
                break
    return pins


def _sizes_held(probe: Trials) -> dict[str, set[int]]:
    """Whole numbers that modules hold, by the name of the attribute."""
    values: dict[str, set[int]] = {}
    for module in probe.original.modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            if type(value) is int and value > 0 and not name.startswith("_") and name != "layer_idx":
                values.setdefault(name, set()).add(value)
    return values


def _changes_others(probe: Trials, entries: Mapping[EntryPath, int]) -> bool:
    """Whether a configuration made with more entries differs in other ones."""
    try:
        made = doc.config_from(probe.config, with_entries(probe.document, entries))
    except Exception:  # the build says why
        return True
    more: dict[str, Any] = {str(path[0]): None for path in entries}
    return {**doc.document_of(made), **more} != {**probe.document, **more}

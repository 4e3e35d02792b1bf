"""Cache of what an architecture built from changed entries, for later plans in the same process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from moeverify.models.forward import Example
from moeverify.pruning.configuration.built import Built
from moeverify.pruning.configuration.short_builds import ShortBuilds


@dataclass(eq=False)
class Remembered:
    """Cached results for one architecture.

    ``original``: the skeleton without changes. ``short_builds``: its builds with representative layers only.
    ``in_full``: whether all layers are built. ``built``: results by changed entries, ``None`` if refused. ``rules``:
    the architecture's error messages by refused entries. ``forwards``: recorded forwards of the unchanged model, by
    example and by everything else that they depend on.
    """

    original: nn.Module | None = None
    short_builds: ShortBuilds | None = None
    in_full: bool = False
    built: dict[tuple, Built | None] = field(default_factory=dict)
    rules: dict[tuple, str] = field(default_factory=dict)
    forwards: WeakKeyDictionary[Example, dict[Hashable, Any]] = field(default_factory=WeakKeyDictionary)


# By class, document and shapes: models of one architecture share it, and so do the plans of one model.
_ARCHITECTURES: OrderedDict[Hashable, Remembered] = OrderedDict()
_MOST_ARCHITECTURES = 4


def remembered(key: Hashable) -> Remembered:
    """Cache of an architecture; the least recently used ones are dropped."""
    architecture = _ARCHITECTURES.setdefault(key, Remembered())
    _ARCHITECTURES.move_to_end(key)
    while len(_ARCHITECTURES) > _MOST_ARCHITECTURES:
        _ARCHITECTURES.popitem(last=False)
    return architecture

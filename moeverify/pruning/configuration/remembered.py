"""Cache of what an architecture built from changed entries, for later plans in the same process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from moeverify.models.forward import Example
from moeverify.models.skeleton import Attribute, Shapes


@dataclass(frozen=True)
class Built:
    """Result of building a skeleton: all shapes, and the plain attributes ``(module, name)`` that differ from the
    original's.
    """

    shapes: Shapes
    attributes: Mapping[Attribute, Any]

    @property
    def has_constants(self) -> bool:
        """Whether a floating-point attribute differs: a constant that the architecture derives from a size."""
        return any(isinstance(value, float) for value in self.attributes.values())


@dataclass(eq=False)
class Remembered:
    """Cached results for one architecture.

    ``built``: shapes and attributes by changed entries. ``rules``: error messages by the entries that were refused.
    ``forwards``: recorded forwards of the unchanged model, by example and by what else they depend on.
    """

    built: dict[tuple, Built | None] = field(default_factory=dict)
    rules: dict[tuple, str] = field(default_factory=dict)
    forwards: WeakKeyDictionary[Example, dict[Hashable, Any]] = field(default_factory=WeakKeyDictionary)


# By class, document and shapes: models of one architecture share it, and so do the plans of one model.
_ARCHITECTURES: OrderedDict[Hashable, Remembered] = OrderedDict()
_MOST_ARCHITECTURES = 4


def remembered(key: Hashable) -> Remembered:
    """Cache of an architecture; the least recently used ones are dropped."""
    found = _ARCHITECTURES.setdefault(key, Remembered())
    _ARCHITECTURES.move_to_end(key)
    while len(_ARCHITECTURES) > _MOST_ARCHITECTURES:
        _ARCHITECTURES.popitem(last=False)
    return found

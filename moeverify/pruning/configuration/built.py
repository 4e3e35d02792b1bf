"""Content of a skeleton: its shapes, and how its attributes differ from those of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

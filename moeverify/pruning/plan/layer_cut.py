"""Whole layers that leave a model: which lists of modules are shortened, and what the configuration says then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.models.module_lists import ListCut


@dataclass(frozen=True, eq=False)
class LayerCut:
    """Layers that stay: the lists that lose entries, and the configuration's entries of the shorter model by path.

    The entries give the shorter model with the base's sizes. What cuts inside of its layers change is said by the
    plan's own entries.
    """

    lists: tuple[ListCut, ...]
    entries: Mapping[tuple[str | int, ...], Any]

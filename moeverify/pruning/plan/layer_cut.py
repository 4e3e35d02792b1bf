"""Whole layers that are dropped: the lists of modules to shorten, and the entries of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeverify.base.entries import EntryPath
from moeverify.models.module_lists import ListCut


@dataclass(frozen=True, eq=False)
class LayerCut:
    """Layers that stay: the lists that lose entries, and the configuration's entries of the shorter model by path.

    The entries give the shorter model with the base's sizes. Entries that cuts inside of its layers change are the
    plan's own.
    """

    lists: tuple[ListCut, ...]
    entries: Mapping[EntryPath, Any]

"""A checkpoint folder under the names of its model: inventory, skeleton, and how each tensor is put together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from moeverify.models.folder.assembly import Assembly, Naming, name_tensors
from moeverify.models.folder.inventory import Inventory, take_inventory
from moeverify.models.folder.reader import Reader
from moeverify.models.folder.skeleton import Skeleton, build_skeleton

# Tensors that were put together are kept while they are compared; so much of them at most.
_CACHE_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One of the two folders."""

    inventory: Inventory
    skeleton: Skeleton
    naming: Naming
    reader: Reader
    _cache: OrderedDict[tuple[str, int | None], torch.Tensor] = field(default_factory=OrderedDict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that can be read."""
        return {name: assembly.shape for name, assembly in self.readable.items()}

    @property
    def readable(self) -> dict[str, Assembly]:
        """The tensors that have the shape which the configuration implies."""
        return {n: a for n, a in self.naming.tensors.items() if n not in self.naming.broken}

    @property
    def twins(self) -> dict[str, str]:
        """Names of tied tensors that are not stored, each with the name that its values are stored under."""
        stored, found = self.readable, {}
        for one, other in self.skeleton.tied.items():
            for name, twin in ((one, other), (other, one)):
                if name not in stored and twin in stored:
                    found[name] = twin
        return found

    def read(self, name: str, part: int | None = None) -> torch.Tensor:
        """Values of a tensor, or of one slice of it along dimension 0."""
        assembly = self.naming.tensors[name]
        if part is not None and not assembly.sliced:
            return self.read(name)[part]
        key = (name, part)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        self.reader.note_read(assembly.nbytes if part is None else assembly.nbytes // assembly.shape[0])
        if assembly.converter is None:
            return assembly.read(part)
        self._cache[key] = assembly.read(part)
        if len(self._cache) > 1:
            while len(self._cache) > 1 and sum(t.nbytes for t in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return self._cache[key]


def open_checkpoint(folder: Path, inventory: Inventory | None = None) -> Checkpoint:
    """Read everything of a folder but its values. Raises ``SourceError`` if no model can be made of it."""
    inventory = inventory or take_inventory(folder)
    skeleton = build_skeleton(folder)
    reader = Reader()
    return Checkpoint(inventory, skeleton, name_tensors(inventory.tensors, skeleton, reader), reader)

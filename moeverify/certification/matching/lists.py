"""Entries of a list of modules recognised by content: layers, and experts that are modules of their own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from moeverify.certification.matching.experts import SAMPLES
from moeverify.certification.matching.keys import hash_rows, in_type, match
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.models.folder.checkpoint import Checkpoint

# Tensors of an entry that are compared.
TENSORS = 8
ENOUGH = 0.5


def shortened_lists(keep: KeepMap) -> list[str]:
    """Paths of lists that have other numbers of entries in the two folders, outer ones first, by base name."""
    before, after = lengths(keep.base), lengths(keep.pruned)
    return sorted((path for path in before if path in after and after[path] != before[path]), key=len)


def lengths(names: Iterable[str]) -> dict[str, int]:
    """Number of entries of each list of modules, by path."""
    entries: dict[str, set[int]] = defaultdict(set)
    for name in names:
        for number in re.finditer(r"\.(\d+)(?=\.)", name):
            entries[name[: number.start()]].add(int(number.group(1)))
    return {path: len(numbers) for path, numbers in entries.items()}


class ListMatcher:
    """Matches the entries of one pruned list to entries of the base."""

    def __init__(self, base: Checkpoint, pruned: Checkpoint, keep: KeepMap, path: str) -> None:
        self.base, self.pruned, self.keep, self.path = base, pruned, keep, path
        self.before = _by_entry(keep.base, path)
        self.after = _by_entry(keep.pruned, keep.to_pruned(path) or "")
        self._known: dict[tuple[str, bool, torch.dtype | None], np.ndarray | None] = {}

    def find(self, hint: np.ndarray | None = None) -> np.ndarray:
        """Base number of each pruned entry, -1 if it matches none. Raises ``Unknown`` if the list was removed."""
        if not self.after:
            raise Unknown(self.path)
        base_entries = np.full(max(self.after) + 1, -1)
        last = -1
        for entry in sorted(self.after):
            following = [*range(last + 1, len(self.before)), *range(last + 1)]
            hinted = [int(hint[entry])] if hint is not None and entry < len(hint) and hint[entry] >= 0 else []
            best, most = -1, 0.0
            for candidate in (*hinted, *following):
                share = self._share(entry, candidate)
                if share > most:
                    best, most = candidate, share
                if share == 1.0:
                    break
            if most >= ENOUGH:
                base_entries[entry] = last = best
        return base_entries

    def _share(self, entry: int, candidate: int) -> float:
        if candidate not in self.before or set(self.after[entry]) != set(self.before[candidate]):
            return 0.0
        trial = np.full(entry + 1, -1)
        trial[entry] = candidate
        previous = self.keep.lists.get(self.path)
        self.keep.lists[self.path] = trial
        try:
            shares = []
            for suffix, name in self.before[candidate].items():
                before, after = self._keys(name, True), self._keys(self.after[entry][suffix], False, name)
                if before is not None and after is not None:
                    shares.append(float((match(after, before)[0] >= 0).mean()))
                if len(shares) == TENSORS:
                    break
        finally:
            del self.keep.lists[self.path]
            if previous is not None:
                self.keep.lists[self.path] = previous
        return float(np.mean(shares)) if shares else 0.0

    def _keys(self, name: str, is_base: bool, partner: str = "") -> np.ndarray | None:
        """Keys of the rows of a tensor, at samples of the other dimensions; ``None`` if those are not known."""
        base_name = name if is_base else partner
        stored = self.pruned.naming.tensors.get(self.keep.to_pruned(base_name) or "")
        key = (name, is_base, None if stored is None else stored.types()[0])
        if key in self._known:
            return self._known[key]
        try:
            rows = self._rows(base_name, name, is_base)
        except (Unknown, KeyError, IndexError):
            return None
        self._known[key] = None if rows is None else hash_rows(rows)
        return self._known[key]

    def _rows(self, base_name: str, name: str, is_base: bool) -> torch.Tensor | None:
        shape = self.keep.shape(base_name)
        pruned_name = self.keep.to_pruned(base_name) or ""
        if len(shape) < 2 or (base_name, 0) in self.keep.structure.axes:
            return None
        open_dims = [d for d in range(len(shape)) if not self._is_known(base_name, d)]
        if len(open_dims) > 1:
            return None
        rows = open_dims[0] if open_dims else 0
        generator = np.random.default_rng(len(base_name))
        index: list[slice | torch.Tensor] = [slice(None)]
        for dim in range(len(shape)):
            if dim == rows:
                continue
            chosen = np.sort(generator.integers(0, shape[dim], SAMPLES))
            if is_base:
                positions = self.keep.positions(base_name, dim)
                chosen = chosen if positions is None else positions[chosen]
            index.append(torch.as_tensor(np.maximum(chosen, 0)))
        values = (self.base if is_base else self.pruned).read(name)
        dtype = self.pruned.naming.tensors[pruned_name].types()[0]
        taken = values.movedim(rows, 0)[tuple(index)]
        return self.keep.as_stored(taken, dtype) if is_base else in_type(taken, dtype)

    def _is_known(self, name: str, dim: int) -> bool:
        try:
            self.keep.positions(name, dim)
        except Unknown:
            return False
        return True


def _by_entry(names: Iterable[str], path: str) -> dict[int, dict[str, str]]:
    """For each entry its tensors, by the part of their names behind the entry's number."""
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for name in names:
        if path and name.startswith(path + "."):
            number, _, suffix = name[len(path) + 1 :].partition(".")
            if number.isdigit():
                entries[int(number)][suffix] = name
    return dict(entries)

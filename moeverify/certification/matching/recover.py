"""Recover the keep map from content alone, without any claim of the folder."""

from __future__ import annotations

import contextlib

import numpy as np
import torch

from moeverify.certification.matching.experts import ExpertMatcher, router_rows
from moeverify.certification.matching.lists import ListMatcher, shortened_lists
from moeverify.certification.matching.loose import find_loose, find_tokens
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.certification.matching.tokenizers import TokenClaims
from moeverify.certification.matching.units import UnitMatcher
from moeverify.certification.structure.structure import Structure
from moeverify.models.folder.checkpoint import Checkpoint


def recover(base: Checkpoint, pruned: Checkpoint, structure: Structure, claims: TokenClaims | None = None) -> KeepMap:
    """Recover the keep map: hidden channels first, then layers, experts, and their inner channels.

    Each is recognised where the dimensions around it are known already. ``claims`` of the tokenizers say where to look
    for tokens, and which of several equal rows is whose.
    """
    keep = KeepMap(structure, base.shapes, pruned.shapes, rounded=_rounded(base, pruned), twins=base.twins)
    recovery = _Recovery(base, pruned, keep)
    lists = shortened_lists(keep)
    recovery.classes(outside=lists)
    for path in lists:
        with contextlib.suppress(Unknown):
            recovery.entries(path)
    keep.forget_counts()
    recovery.classes(outside=[])
    recovery.experts()
    recovery.classes(outside=[])
    recovery.classes(outside=[], trusting=True)
    recovery.experts()
    recovery.classes(outside=[], trusting=True)
    recovery.rest()
    find_tokens(base, pruned, keep, claims or TokenClaims())
    find_loose(base, pruned, keep)
    return keep


def _rounded(base: Checkpoint, pruned: Checkpoint) -> torch.dtype | None:
    """The short type that all large tensors of the pruned folder fit in, unless those of the base do as well."""
    for dtype in (torch.bfloat16, torch.float16):
        if _fits(pruned, dtype) and not _fits(base, dtype):
            return dtype
    return None


def _fits(side: Checkpoint, dtype: torch.dtype) -> bool:
    """Whether samples of the largest tensors are values of ``dtype`` that are stored in a longer type."""
    stored = sorted(side.inventory.tensors.values(), key=lambda t: -t.nbytes)[:16]
    for tensor in stored:
        if not tensor.torch_dtype.is_floating_point or tensor.torch_dtype.itemsize <= dtype.itemsize:
            return False
        values = side.reader.tensor(tensor).reshape(-1)[:4096]
        if not torch.equal(values.to(dtype).to(values.dtype), values):
            return False
    return bool(stored)


class _Recovery:
    def __init__(self, base: Checkpoint, pruned: Checkpoint, keep: KeepMap) -> None:
        self.base, self.pruned, self.keep = base, pruned, keep
        self.structure = keep.structure
        self.units = UnitMatcher(base, pruned, keep)
        self.failed: set[int] = set()

    def classes(self, *, outside: list[str], trusting: bool = False) -> None:
        """Recover the kept units of every class that can be compared, until a pass recovers no more.

        ``outside``: lists of modules whose kept entries are not known yet. If there are any, only classes with a member
        outside of them are tried.
        """
        gained = True
        while gained:
            gained = False
            for number, item in enumerate(self.structure.classes):
                if number in self.keep.units:
                    continue
                if outside and not any(_is_outside(m.parameter, outside) for m in item.coupling.members):
                    continue
                gained |= self._class(number, trusting)

    def _class(self, number: int, trusting: bool) -> bool:
        try:
            layer = self.structure.moe_layer(self.structure.classes[number])
            if layer is None:
                units = self.units.find(number, trusting=trusting)
            else:
                units = self._of_experts(number, layer, trusting)
        except Unknown:
            return False
        if units is None or (trusting and (units < 0).mean() > 0.5):
            return False
        self.keep.units[number] = units
        return True

    def _of_experts(self, number: int, layer: int, trusting: bool) -> np.ndarray | None:
        if layer not in self.keep.experts:
            return None
        rows = [self._row(number, (a, int(b)), trusting) for a, b in enumerate(self.keep.experts[layer])]
        rows += [self._row(number, pair, trusting) for pair in self._idle(layer)]
        known = [row for row in rows if row is not None]
        return np.stack(known) if len(known) == len(rows) else None

    def _row(self, number: int, part: tuple[int, int], trusting: bool) -> np.ndarray | None:
        """The units of a class that one expert keeps; ``None`` if they cannot be compared yet."""
        if part[1] < 0:
            return np.full(self.keep.count(number), -1)
        return self.units.find(number, part, trusting=trusting)

    def _idle(self, layer: int) -> list[tuple[int, int]]:
        """Slices of a stack after those of the experts, as (after, before): experts that compute nothing."""
        count = len(self.structure.roles.layers[layer].experts)
        return [(n - count + len(self.keep.experts[layer]), n) for n in range(count, self._slices(layer))]

    def _slices(self, layer: int) -> int:
        axes = self.structure.axes.items()
        return max(
            (
                self.keep.base[name][0]
                for (name, dim), axis in axes
                if (axis.layer, dim) == (layer, 0) and axis.stride == 1 and len(self.keep.base.get(name, ())) > 2
            ),
            default=0,
        )

    def entries(self, path: str) -> None:
        """Find which base entry each entry of a shortened list is."""
        layer = next((n for n, x in enumerate(self.structure.roles.layers) if x.container == path), None)
        hint = None if layer is None else router_rows(self.base, self.pruned, self.keep, layer)
        entries = ListMatcher(self.base, self.pruned, self.keep, path).find(hint)
        self.keep.lists[path] = entries

    def experts(self) -> None:
        """Recover the base number of each expert, in every MoE layer that stayed."""
        for number, layer in enumerate(self.structure.roles.layers):
            if number in self.keep.experts:
                continue
            try:
                if layer.layout == "listed":
                    path = layer.container
                    if path not in self.keep.lists:
                        base_experts = ListMatcher(self.base, self.pruned, self.keep, path).find(
                            router_rows(self.base, self.pruned, self.keep, number)
                        )
                        self.keep.lists[path] = base_experts
                    self.keep.experts[number] = self.keep.lists[path]
                else:
                    matcher = ExpertMatcher(self.base, self.pruned, self.keep, number)
                    hint = router_rows(self.base, self.pruned, self.keep, number)
                    if hint is not None or matcher.stacks:
                        self._fused(number, matcher, hint)
            except Unknown:
                continue

    def _fused(self, layer: int, matcher: ExpertMatcher, hint: np.ndarray | None) -> None:
        """Find fused experts, and at once the channels of each, while its weights are at hand."""
        numbers = [n for n, item in enumerate(self.structure.classes) if self.structure.moe_layer(item) == layer]
        rows: dict[int, list[np.ndarray | None]] = {n: [] for n in numbers}

        def on_found(after: int, before: int) -> None:
            for number in numbers:
                with contextlib.suppress(Unknown):
                    rows[number].append(self._row(number, (after, before), False))

        self.keep.experts[layer] = base_experts = matcher.find(hint, on_found)
        if self._idle(layer):
            return  # further slices are compared with the classes
        for number, units in rows.items():
            known = [row for row in units if row is not None]
            if len(known) == len(units) == len(base_experts):
                self.keep.units.setdefault(number, np.stack(known))

    def rest(self) -> None:
        """Take what kept its size and could not be compared for unchanged; the comparison of values has the word."""
        for number, item in enumerate(self.structure.classes):
            try:
                count = self.keep.count(number)
            except Unknown:
                continue
            if count != item.coupling.size:
                continue
            if number not in self.keep.units:
                self.keep.units[number] = np.arange(count)
            else:
                self.keep.units[number] = _filled(self.keep.units[number])
        for number, layer in enumerate(self.structure.roles.layers):
            experts = self.keep.experts.get(number)
            if experts is not None and len(experts) == len(layer.experts):
                self.keep.experts[number] = _filled(experts)


def _filled(units: np.ndarray) -> np.ndarray:
    """Units that fit none of the base, taken for those that are left over; at their own place if that one is free."""
    if units.ndim == 2:
        return np.stack([_filled(row) for row in units])
    open_places = np.flatnonzero(units < 0)
    left = set(range(len(units))) - set(units.tolist())
    result = units.copy()
    for place in open_places:
        if place in left:
            result[place] = place
            left.discard(int(place))
    for place in open_places:
        if result[place] < 0:
            result[place] = left.pop()
    return result


def _is_outside(name: str, lists: list[str]) -> bool:
    return not any(name.startswith(path + ".") for path in lists)

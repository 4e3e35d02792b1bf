"""Fused experts recognised by content: which base expert each slice of a stack is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moeverify.certification.matching.keys import hash_rows, in_type, match
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.models.folder.checkpoint import Checkpoint

SAMPLES = 16
# An expert is recognised by this share of its rows.
ENOUGH = 0.5


@dataclass(frozen=True)
class Stack:
    """A parameter of all experts. Its rows (of a slice, along ``dim``) are compared at samples of the other dimension.

    ``strides`` are rows of one expert before and after where experts come in turn; else each expert has a slice.
    """

    name: str
    dim: int
    strides: tuple[int, int] = (0, 0)


class ExpertMatcher:
    """Recognises the experts of one MoE layer."""

    def __init__(self, base: Checkpoint, pruned: Checkpoint, keep: KeepMap, layer: int) -> None:
        self.base, self.pruned, self.keep = base, pruned, keep
        self.stacks = stacks_of(keep, layer)
        self.before = len(keep.structure.roles.layers[layer].experts)
        self.after = keep.expert_count(layer)
        self._known: dict[tuple[str, int, torch.dtype], np.ndarray] = {}

    def find(self, hint: np.ndarray | None, on_found: Callable[[int, int], None]) -> np.ndarray:
        """For each pruned expert the base expert whose weights it has, -1 if none.

        ``hint`` names the expert that each is compared with first. Without stacks that can be compared it is the
        answer. ``on_found`` is called with both numbers of an expert while its weights are at hand.
        """
        if hint is None:
            hint = np.arange(self.after) if self.after == self.before else np.full(self.after, -1)
        if not self.stacks:
            for expert, before in enumerate(hint.tolist()):
                on_found(expert, before)
            return hint
        base_experts = np.full(self.after, -1)
        for expert in range(self.after):
            types = [self._type(stack, expert) for stack in self.stacks]
            keys = [self._after(*pair, expert) for pair in zip(self.stacks, types, strict=True)]
            first = [int(hint[expert])] if hint[expert] >= 0 else []
            best, share = self._best(keys, types, first)
            if share < 1.0:
                other, better = self._best(keys, types, range(self.before))
                if better > share:
                    best, share = other, better
            if share >= ENOUGH:
                base_experts[expert] = best
            on_found(expert, int(base_experts[expert]))
        return base_experts

    def _best(
        self, keys: Sequence[np.ndarray], types: Sequence[torch.dtype], candidates: Iterable[int]
    ) -> tuple[int, float]:
        best, most = -1, 0.0
        for candidate in candidates:
            sides = zip(self.stacks, types, keys, strict=True)
            shares = [_share(key, self._before(stack, dtype, candidate)) for stack, dtype, key in sides]
            share = float(np.mean(shares))
            if share > most:
                best, most = candidate, share
                if share == 1.0:
                    break
        return best, most

    def _type(self, stack: Stack, expert: int) -> torch.dtype:
        """The shortest type that an expert of the pruned folder is stored in: in it, both sides are compared."""
        assembly = self.pruned.naming.tensors[self.keep.to_pruned(stack.name) or ""]
        return assembly.types(None if stack.strides[1] else expert)[0]

    def _after(self, stack: Stack, dtype: torch.dtype, expert: int) -> np.ndarray:
        values = self._slice(self.pruned, self.keep.to_pruned(stack.name) or "", stack.strides[1], expert)
        return hash_rows(in_type(values.movedim(stack.dim, 0)[:, self._columns(stack)[0]], dtype))

    def _before(self, stack: Stack, dtype: torch.dtype, expert: int) -> np.ndarray:
        key = (stack.name, expert, dtype)
        if key not in self._known:
            values = self._slice(self.base, stack.name, stack.strides[0], expert)
            rows = values.movedim(stack.dim, 0)[:, self._columns(stack)[1]]
            self._known[key] = hash_rows(self.keep.as_stored(rows, dtype))
        return self._known[key]

    @staticmethod
    def _slice(side: Checkpoint, name: str, stride: int, expert: int) -> torch.Tensor:
        if stride:
            return side.read(name)[expert * stride : (expert + 1) * stride]
        return side.read(name, expert)

    def _columns(self, stack: Stack) -> tuple[torch.Tensor, torch.Tensor]:
        """Sampled positions of the dimension that is known, after and before."""
        whole = (1 - stack.dim) + (0 if stack.strides[0] else 1)
        return sampled_positions(self.keep, stack.name, whole)


def sampled_positions(keep: KeepMap, name: str, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random sample of kept positions of a dimension: numbers in the pruned model, and in the base.

    Raises ``Unknown`` if the dimension is not recovered yet.
    """
    positions = keep.positions(name, dim)
    size = keep.shape(name)[dim]
    after = np.sort(np.random.default_rng(size).integers(0, size, SAMPLES))
    before = after if positions is None else positions[after]
    if not (before >= 0).any():
        raise Unknown(name)
    return torch.as_tensor(after[before >= 0]), torch.as_tensor(before[before >= 0])


def _share(wanted: np.ndarray, there: np.ndarray) -> float:
    """Share of the wanted keys that are there."""
    return float((match(wanted, there)[0] >= 0).mean()) if len(wanted) and len(there) else 0.0


def stacks_of(keep: KeepMap, layer: int) -> list[Stack]:
    """Stacks of a layer of which one inner dimension is known, whatever happened to the other."""
    stacks = []
    for (name, dim), axis in keep.structure.axes.items():
        if axis.layer != layer or dim != 0 or name not in keep.base or keep.to_pruned(name) not in keep.pruned:
            continue
        rank = len(keep.base[name])
        if axis.stride == 1 and rank == 3:
            known = next((rows for rows, across in ((1, 2), (2, 1)) if _is_known(keep, name, across)), None)
            if known is not None:
                stacks.append(Stack(name, known - 1))
        elif axis.stride > 1 and rank == 2 and _is_known(keep, name, 1):
            stacks.append(Stack(name, 0, (axis.stride, keep.shape(name)[0] // keep.expert_count(layer))))
    return stacks


def _is_known(keep: KeepMap, name: str, dim: int) -> bool:
    try:
        sampled_positions(keep, name, dim)
    except Unknown:
        return False
    return True


def router_rows(base: Checkpoint, pruned: Checkpoint, keep: KeepMap, layer: int) -> np.ndarray | None:
    """Experts by the rows of the router's matrix, -1 for a row that no one of the base is; ``None`` without one."""
    for (name, dim), axis in keep.structure.axes.items():
        if axis.layer != layer or axis.stride != 1 or dim != 0 or len(keep.base.get(name, ())) != 2:
            continue
        if (name, 1) in keep.structure.slots and _in_stack(keep, name):
            continue
        try:
            columns = keep.positions(name, 1)
            after = pruned.read(keep.to_pruned(name) or "")
        except (Unknown, KeyError):
            continue
        before = base.read(name)
        if columns is not None:
            usable = torch.as_tensor(np.flatnonzero(columns >= 0))
            if not len(usable):
                continue
            before, after = before[:, torch.as_tensor(columns)[usable]], after[:, usable]
        count = len(after) - (len(before) - axis.count)
        return match(hash_rows(after[:count]), hash_rows(keep.as_stored(before[: axis.count], after.dtype)))[0]
    return None


def _in_stack(keep: KeepMap, name: str) -> bool:
    """Whether a matrix is a bias of fused experts, whose second dimension holds channels of experts."""
    return any(keep.structure.classes[slot.number].experts for slot in keep.structure.slots[name, 1])

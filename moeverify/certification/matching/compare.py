"""Every value of the pruned folder against the base's at the recovered positions, and what differs where.

Tensors are compared one by one, stacks of experts slice by slice, so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from moeverify.certification.matching.explain import Maps, alternative, difference
from moeverify.certification.matching.keys import as_bits, in_type
from moeverify.certification.matching.maps import KeepMap, Unknown
from moeverify.models.folder.checkpoint import Checkpoint
from moeverify.models.roles import MoELayer

# Matrices are compared in blocks of rows of so many bytes.
_BLOCK_BYTES = 1 << 26
_ROUNDED = (torch.bfloat16, torch.float16, torch.float32)


class Relation(StrEnum):
    """Relation of a tensor's values to the base's at the same positions."""

    EQUAL = "equal"  # bit for bit
    CAST = "cast"  # the base's, converted to the type they are stored in
    MIXED = "mixed"  # cast, to a shorter type than its siblings in other layers or experts are stored in
    ROUNDED = "rounded"  # the base's, rounded to a shorter type and stored in the longer one
    ZEROED = "zeroed"  # the base's, or zero
    SCALED = "scaled"  # the base's times one factor
    MOVED = "moved"  # the base's, from other positions than the rest of the class
    CHANGED = "changed"  # near the base's
    UNRELATED = "unrelated"  # not near the base's
    UNMAPPED = "unmapped"  # no base tensor or positions to compare with


PURE = (Relation.EQUAL, Relation.CAST)


@dataclass(frozen=True)
class Compared:
    """One tensor or one expert's slice: names and experts after and before, and the outcome of the comparison.

    ``types``: what its values are stored in, the shortest type first.
    """

    name: str
    origin: str
    relation: Relation
    base_name: str = ""
    expert: int | None = None
    base_expert: int | None = None
    role: str = "other"
    detail: str = ""
    change: float = 0.0
    nbytes: int = 0
    types: tuple[torch.dtype, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Name of the tensor, with the expert if it is a slice."""
        return self.name if self.expert is None else f"{self.name}, expert {self.expert}"


def compare_all(base: Checkpoint, pruned: Checkpoint, keep: KeepMap) -> Iterator[Compared]:
    """Compare every tensor of the pruned folder that has the shape its configuration implies."""
    comparer = _Comparer(base, pruned, keep)
    for name in pruned.readable:
        for compared in comparer.tensor(name):
            yield replace(compared, role=comparer.role(compared.base_name or name))


class _Comparer:
    def __init__(self, base: Checkpoint, pruned: Checkpoint, keep: KeepMap) -> None:
        self.base, self.pruned, self.keep = base, pruned, keep
        layers = keep.structure.roles.layers
        self._routers = {r for layer in layers for r in layer.routers}
        self._shared = keep.structure.roles.shared_experts

    def role(self, name: str) -> str:
        """``experts``, ``router`` (everything else that counts experts), or ``other``."""
        roles = self.keep.structure.roles
        if roles.boundary(name) is not None:
            return "experts"
        counted = any((name, dim) in self.keep.structure.axes for dim in range(len(self.keep.base.get(name, ()))))
        if counted or any(name.startswith(router + ".") for router in self._routers) or self._is_table(name):
            return "router"
        return "other"

    def _is_table(self, name: str) -> bool:
        """Whether a tensor is a table of expert numbers: whole numbers inside of a MoE layer."""
        return any(is_table(name, layer, self.base) for layer in self.keep.structure.roles.layers)

    def tensor(self, name: str) -> Iterator[Compared]:
        assembly = self.pruned.naming.tensors[name]
        source = self.keep.to_base(name)
        whole = Compared(
            name, assembly.origin(), Relation.UNMAPPED, source or "", nbytes=assembly.nbytes, types=assembly.types()
        )
        if source is None or source not in self.keep.base:
            yield replace(whole, base_name="", detail="no layer or expert of the base has these values")
            return
        if len(self.keep.base[source]) != len(assembly.shape):
            yield replace(whole, detail=f"has {len(assembly.shape)} dimensions, {source} {len(self.keep.base[source])}")
            return
        layer = self._stack_layer(source)
        if layer is None:
            yield self._matrix(whole, source)
            return
        experts = self.keep.experts[layer]
        count = len(self.keep.structure.roles.layers[layer].experts)
        parts = [*experts, *range(count, self.keep.base[source][0])]
        size = assembly.nbytes // max(len(parts), 1)
        for after, before in enumerate(parts):
            one = replace(whole, origin=assembly.origin(after), expert=after, base_expert=int(before), nbytes=size)
            one = replace(one, types=assembly.types(after))
            if before < 0:
                yield replace(one, detail="no expert of the base has these weights")
            else:
                yield self._slice(one, source)

    def _stack_layer(self, source: str) -> int | None:
        """The MoE layer whose experts are compared slice by slice."""
        axis = self.keep.structure.axes.get((source, 0))
        if axis is None or axis.stride != 1 or axis.layer not in self.keep.experts:
            return None
        return axis.layer if len(self.keep.base[source]) > 1 and self.role(source) == "experts" else None

    def _slice(self, one: Compared, source: str) -> Compared:
        assert one.expert is not None
        try:
            dims = range(1, len(self.keep.base[source]))
            maps = {dim - 1: self.keep.positions(source, dim, one.expert) for dim in dims}
        except Unknown as error:
            return replace(one, detail=f"positions are not known: {error}")
        return self._judged(one, self.pruned.read(one.name, one.expert), self.base.read(source, one.base_expert), maps)

    def _matrix(self, one: Compared, source: str) -> Compared:
        try:
            maps = {dim: self.keep.positions(source, dim) for dim in range(len(self.keep.base[source]))}
        except Unknown as error:
            return replace(one, detail=f"positions are not known: {error}")
        after, before = self.pruned.read(one.name), self.base.read(source)
        if not after.is_floating_point() and self._is_table(source):
            return self._table(one, after, before, maps, source)
        for dim in (dim for dim in maps if (source, dim) in self.keep.token_axes):  # added tokens are not judged
            if (tokens := maps[dim]) is not None and (tokens < 0).any() and len(one.types) == 1:
                after = after.index_select(dim, torch.as_tensor(np.flatnonzero(tokens >= 0)))
                maps[dim] = tokens[tokens >= 0]
        return self._judged(one, after, before, maps)

    def _judged(self, one: Compared, after: torch.Tensor, before: torch.Tensor, maps: Maps) -> Compared:
        """Compare, each value in the type that its own source is stored in: gate and up may have two."""
        found = judge(one, after, before, maps)
        if len(one.types) < 2 or found.relation in PURE:
            return found
        coarse = judge(one, after.to(one.types[0]), before, maps)
        if coarse.relation not in PURE:
            return coarse
        numbers, exact = self.pruned.naming.tensors[one.name].read_types(one.expert), _taken(before, maps)
        expected = exact.to(after.dtype)
        for number, dtype in enumerate(one.types):
            expected = torch.where(numbers == number, exact.to(dtype).to(after.dtype), expected)
        same = torch.equal(as_bits(after.contiguous()), as_bits(expected.contiguous()))
        return replace(coarse, evidence={**coarse.evidence, "partly": True}) if same else found

    def _table(self, one: Compared, after: torch.Tensor, before: torch.Tensor, maps: Maps, source: str) -> Compared:
        """A table of expert numbers must name the same experts by their new numbers."""
        layer = next(n for n, x in enumerate(self.keep.structure.roles.layers) if source.startswith(x.name + "."))
        experts = self.keep.experts.get(layer)
        if experts is None:
            return replace(one, detail="the experts of its layer are not known")
        if after.numel() and (int(after.min()) < 0 or int(after.max()) >= len(experts)):
            bad = int(after.max()) if int(after.max()) >= len(experts) else int(after.min())
            detail = f"names expert {bad}, but there are {len(experts)}: the table was not renumbered"
            return replace(one, relation=Relation.MOVED, detail=detail)
        expected = _taken(before, maps)
        now = torch.as_tensor(experts)[after.long()]
        wrong = now != expected.long()
        stayed = torch.isin(expected.long(), torch.as_tensor(experts))
        if bool((wrong & stayed).any()):
            place = torch.nonzero(wrong & stayed)[0].tolist()
            got, wanted = int(now[tuple(place)]), int(expected[tuple(place)])
            detail = f"at {place} it names what was expert {got} of the base, the base names {wanted}"
            return replace(one, relation=Relation.MOVED, detail=detail)
        return replace(one, relation=Relation.EQUAL)


def is_table(name: str, layer: MoELayer, base: Checkpoint) -> bool:
    """Whether a tensor of the base is a table of expert numbers: whole numbers inside of a MoE layer."""
    stored = base.naming.tensors.get(name)
    return stored is not None and not stored.dtype.is_floating_point and name.startswith(layer.name + ".")


def judge(one: Compared, after: torch.Tensor, before: torch.Tensor, maps: Maps) -> Compared:
    """Compare values with the base's at ``maps`` (positions by dimension, ``None`` for all of them)."""
    if after.dtype != before.dtype and not (after.is_floating_point() and before.is_floating_point()):
        return replace(one, detail=f"is stored as {after.dtype}, the base as {before.dtype}")
    unknown = [dim for dim, positions in maps.items() if positions is not None and (positions < 0).any()]
    usable = {d: None if p is None else np.maximum(p, 0) for d, p in maps.items()}
    if not unknown and _equal(after, before, usable):
        if after.dtype == before.dtype:
            return replace(one, relation=Relation.EQUAL)
        return _cast(one, after, before)
    for dim in unknown:
        known = np.flatnonzero(maps[dim] >= 0)  # type: ignore[operator]  # an unknown dimension has positions
        if not len(known):
            return replace(one, detail=f"no position of dimension {dim} is known of the base")
        after = after.index_select(dim, torch.as_tensor(known))
        usable[dim] = usable[dim][known]  # type: ignore[index]  # an unknown dimension has positions
    if unknown and _equal(after, before, usable):
        return replace(
            one, detail=f"what is known of the base is equal; dimension {unknown[0]} holds parts that are not"
        )
    expected = _taken(before, usable)
    if not after.is_floating_point():
        return replace(one, relation=Relation.UNRELATED, detail="its whole numbers are not the base's")
    return _differs(one, after, expected, before, usable)


def _cast(one: Compared, after: torch.Tensor, before: torch.Tensor) -> Compared:
    """The base's values in another type, unless that type is too small for them."""
    finite = _computable(after).isfinite()
    if bool(finite.all()) or not bool(_computable(before).isfinite().all()):
        return replace(one, relation=Relation.CAST, evidence={"dtype": after.dtype})
    count, name = int((~finite).sum()), str(after.dtype).removeprefix("torch.")
    return replace(one, relation=Relation.UNRELATED, detail=f"{count:,} values are too large for {name}: not finite")


def _differs(
    one: Compared,
    after: torch.Tensor,
    expected: torch.Tensor,
    before: torch.Tensor,
    maps: Maps,
) -> Compared:
    target = in_type(expected, after.dtype)
    different = as_bits(after.contiguous()) != as_bits(target.contiguous())
    after, expected, before = map(_computable, (after, expected, before))
    zero = after == 0
    if not bool((different & ~zero).any()) and not bool(zero.all()):
        return replace(one, relation=Relation.ZEROED, detail=_zeroed(different), evidence={"zeroed": _units(different)})
    for dtype in _ROUNDED:
        if dtype.itemsize < min(after.dtype.itemsize, before.dtype.itemsize) or dtype == torch.float32:
            rounded = expected.to(dtype).to(after.dtype)
            if dtype != after.dtype and torch.equal(rounded, after):
                detail = f"rounded to {str(dtype).removeprefix('torch.')}"
                return replace(one, relation=Relation.ROUNDED, detail=detail, evidence={"dtype": dtype})
            if dtype != after.dtype and (count := _rounded_rows(after, rounded, different)):
                detail = f"rounded to {str(dtype).removeprefix('torch.')} in {count:,} of {len(after):,} rows"
                return replace(one, relation=Relation.ROUNDED, detail=detail, evidence={"dtype": dtype, "partly": True})
    change, factor = difference(after, expected)
    if factor is not None:
        return replace(one, relation=Relation.SCALED, detail=f"times {factor:.6g}", change=change)
    if (moved := alternative(after, before, maps)) is not None:
        at = {} if moved.dim is None or one.expert is not None else {"dim": moved.dim, "found": moved.found}
        return replace(one, relation=Relation.MOVED, detail=moved.words, change=change, evidence=at)
    count = int(different.sum())
    first = torch.nonzero(different)[0].tolist() if count else []
    relation = Relation.CHANGED if change < 0.5 else Relation.UNRELATED
    detail = f"{count:,} of {after.numel():,} values differ, first at {first}; relative change {change:.1e}"
    if not bool(after.isfinite().all()):
        relation, detail = Relation.UNRELATED, "holds values that are not finite"
        if bool(expected.isfinite().all()):
            return replace(one, relation=relation, detail=detail, evidence={"broken": True})
    return replace(one, relation=relation, detail=detail, change=change)


def _rounded_rows(after: torch.Tensor, rounded: torch.Tensor, different: torch.Tensor) -> int:
    """Number of rows that are rounded, if all others are the base's; 0 if any is neither."""
    if after.dim() < 2:
        return 0
    same, alike = (~different).flatten(1).all(1), (rounded == after).flatten(1).all(1)
    return int((~same).sum()) if bool((same | alike).all()) else 0


def _computable(values: torch.Tensor) -> torch.Tensor:
    """Values in a type that PyTorch computes with; it only converts those of eight bits."""
    return values.float() if values.is_floating_point() and values.element_size() == 1 else values


def _zeroed(different: torch.Tensor) -> str:
    return f"{int(different.sum()):,} of {different.numel():,} values are zero here and not in the base"


def _units(different: torch.Tensor) -> dict[str, list[int]]:
    """Rows and columns that were zeroed as a whole."""
    if different.dim() != 2:
        return {}
    rows, columns = different.float().mean(1) > 0.9, different.float().mean(0) > 0.9
    return {"rows": torch.nonzero(rows).ravel().tolist(), "columns": torch.nonzero(columns).ravel().tolist()}


def _taken(before: torch.Tensor, maps: Maps) -> torch.Tensor:
    for dim, positions in maps.items():
        if positions is not None:
            before = before.index_select(dim, torch.as_tensor(positions))
    return before


def _equal(after: torch.Tensor, before: torch.Tensor, maps: Maps) -> bool:
    """Whether all values are the base's, converted to the type they are stored in; block by block."""
    if not after.dim():
        return torch.equal(as_bits(after.reshape(1)), as_bits(in_type(before, after.dtype).reshape(1)))
    height = max(1, _BLOCK_BYTES * len(after) // max(after.nbytes, 1))
    rows, rest = maps.get(0), {d: p for d, p in maps.items() if d != 0}
    for start in range(0, len(after), height):
        block = after[start : start + height]
        if rows is None:
            theirs = before[start : start + height]
        else:
            theirs = before.index_select(0, torch.as_tensor(rows[start : start + height]))
        theirs = in_type(_taken(theirs, rest), after.dtype)
        if theirs.shape != block.shape or not torch.equal(as_bits(block.contiguous()), as_bits(theirs.contiguous())):
            return False
    return True

"""Explanation of one channel: the channels coupled with it, by which operations, or what froze it."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from moeverify.coupling.relations import Operation, Trace
from moeverify.coupling.solving.classes import CouplingClass, FrozenDim
from moeverify.coupling.solving.links import Links
from moeverify.errors import UsageError

_Place = tuple[int, int]  # a dimension and a position in it


class Partner(NamedTuple):
    """Coupled positions of one parameter's dimension, and the operations that lead there, nearest last."""

    parameter: str
    dim: int
    positions: tuple[int, ...]
    chain: tuple[Operation, ...]


@dataclass(frozen=True)
class Explanation:
    """Reasons why one channel cannot go alone.

    ``together`` lists everything of its unit, the asked channel's own dimension included. If the channel can never be
    removed, ``frozen`` gives the reason instead. ``chain`` then leads from the operation that froze it to the
    parameter. With neither, the channel belongs to no class: nothing but unused buffers would go with it.
    """

    parameter: str
    dim: int
    position: int
    together: tuple[Partner, ...] = ()
    frozen: FrozenDim | None = None
    chain: tuple[Operation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain data for JSON."""
        result: dict[str, Any] = {"parameter": self.parameter, "dim": self.dim, "position": self.position}
        if self.frozen is not None:
            result["frozen"] = {
                "reason": self.frozen.reason,
                "operation": self.frozen.operation,
                "chain": _plain(self.chain),
            }
        result["together"] = [
            {"parameter": p.parameter, "dim": p.dim, "positions": list(p.positions), "chain": _plain(p.chain)}
            for p in self.together
        ]
        return result


def _plain(chain: Sequence[Operation]) -> list[dict[str, str]]:
    return [{"operation": step.name, "module": step.module} for step in chain]


class Explainer:
    """Answers ``explain`` for one trace; the map of relations is built once."""

    def __init__(
        self, trace: Trace, links: Links, classes: Sequence[CouplingClass], frozen: Sequence[FrozenDim]
    ) -> None:
        self.trace = trace
        self.relations = trace.relations
        self.chosen = links.chosen
        self._classes: dict[tuple[str, int], list[tuple[CouplingClass, Any]]] = defaultdict(list)
        for coupling in classes:
            for member in coupling.members:
                self._classes[member.parameter, member.dim].append((coupling, member.positions))
        self._frozen: dict[tuple[str, int], list[FrozenDim]] = defaultdict(list)
        for item in frozen:
            self._frozen[item.parameter, item.dim].append(item)
        self._equals: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._slices: dict[int, list[tuple[bool, int]]] = defaultdict(list)
        self._products: dict[int, set[int]] = defaultdict(set)
        for a, b, operation in self.relations.equals:
            self._equals[a].append((b, operation))
            self._equals[b].append((a, operation))
        for number, segment in enumerate(self.relations.segments):
            self._slices[segment.part].append((True, number))
            self._slices[segment.whole].append((False, number))
        for number, product in enumerate(self.relations.products):
            for dim in (product.whole, *product.factors):
                self._products[dim].add(number)

    def explain(self, parameter: str, dim: int, position: int) -> Explanation:
        """Explain one channel: the channels coupled with it, each with the operations between; or what froze it.

        Raises ``UsageError`` for a parameter, dimension or position that the model does not have.
        """
        parameter = self.trace.aliases.get(parameter, parameter)
        dims = self.trace.tensors.get(parameter)
        if dims is None:
            raise UsageError(f"no parameter {parameter!r}{_nearest(parameter, self.trace.tensors)}")
        if not 0 <= dim < len(dims):
            raise UsageError(f"{parameter} has no dimension {dim}; it has {len(dims)}, counted from 0")
        size = self.relations.sizes[dims[dim]]
        if not 0 <= position < size:
            raise UsageError(f"{parameter} dimension {dim} has no position {position}; it has {size}, counted from 0")
        start = (dims[dim], position)
        for frozen in self._frozen[parameter, dim]:
            if position in frozen.positions:
                return Explanation(parameter, dim, position, frozen=frozen, chain=self._to_freeze(start, frozen))
        for coupling, positions in self._classes[parameter, dim]:
            hit = (positions == position).any(axis=1)
            if hit.any():
                together = self._partners(start, coupling, int(hit.argmax()))
                return Explanation(parameter, dim, position, together=together)
        return Explanation(parameter, dim, position)

    def _partners(self, start: _Place, coupling: CouplingClass, unit: int) -> tuple[Partner, ...]:
        places = {}
        for member in coupling.members:
            whole = self.trace.tensors[member.parameter][member.dim]
            places[whole] = (member, tuple(int(p) for p in member.positions[unit]))
        came = self._walk(start, wanted=set(places))
        return tuple(
            Partner(member.parameter, member.dim, positions, self._chain(came, whole, positions))
            for whole, (member, positions) in places.items()
        )

    def _to_freeze(self, start: _Place, frozen: FrozenDim) -> tuple[Operation, ...]:
        if frozen.cause is None:
            return ()
        came = self._walk(start, wanted={frozen.cause.dim}, every_factor=True)
        end = next((place for place in came if place[0] == frozen.cause.dim), None)
        return tuple(reversed(self._chain(came, end[0], (end[1],)))) if end is not None else ()

    def _walk(
        self, start: _Place, *, wanted: set[int], every_factor: bool = False
    ) -> dict[_Place, tuple[_Place, int] | None]:
        """Breadth first from one position, until a position of every wanted dimension is reached."""
        came: dict[_Place, tuple[_Place, int] | None] = {start: None}
        missing = set(wanted) - {start[0]}
        queue = deque([start])
        while queue and missing:
            here = queue.popleft()
            for there, operation in self._beside(here, every_factor):
                if there not in came:
                    came[there] = (here, operation)
                    missing.discard(there[0])
                    queue.append(there)
        return came

    def _beside(self, place: _Place, every_factor: bool) -> Iterator[tuple[_Place, int]]:
        dim, position = place
        for other, operation in self._equals[dim]:
            yield (other, position), operation
        for is_part, number in self._slices[dim]:
            segment = self.relations.segments[number]
            if is_part:
                yield (segment.whole, segment.start + segment.step * position), segment.operation
                continue
            inside, rest = divmod(position - segment.start, segment.step)
            if rest == 0 and 0 <= inside < self.relations.sizes[segment.part]:
                yield (segment.part, inside), segment.operation
        for number in self._products[dim]:
            product = self.relations.products[number]
            sizes = [self.relations.sizes[f] for f in product.factors]
            for k, factor in enumerate(product.factors):
                inner = math.prod(sizes[k + 1 :])
                if not every_factor and (number not in self.chosen or self.chosen[number][1:] != (sizes[k], inner)):
                    continue
                if dim == product.whole:
                    yield (factor, position // inner % sizes[k]), product.operation
                elif dim == factor:
                    step = inner * sizes[k]
                    for block in range(math.prod(sizes[:k])):
                        for offset in range(inner):
                            yield (product.whole, block * step + position * inner + offset), product.operation

    def _chain(
        self, came: Mapping[_Place, tuple[_Place, int] | None], dim: int, positions: Sequence[int]
    ) -> tuple[Operation, ...]:
        """The operations on the way from the start to the first of ``positions`` that was reached."""
        at = next(((dim, p) for p in positions if (dim, p) in came), None)
        chain: list[Operation] = []
        while at is not None and (step := came[at]) is not None:
            at, number = step
            operation = self.relations.operations[number] if number >= 0 else Operation("tied memory", "")
            if not chain or chain[-1] != operation:
                chain.append(operation)
        return tuple(reversed(chain))


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """The known names that a wrong one may have meant."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `moeverify inspect` lists them"

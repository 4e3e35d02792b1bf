"""Dimensions of traced tensors and how operations relate them.

A *dimension* is one axis of one tensor seen by the trace. Rules (``moeverify.coupling.rules``) state relations
between dimensions; the solver turns them into coupling classes. Four relations are enough for that:

* ``equal``: position ``i`` of one is position ``i`` of the other;
* ``segment``: ``part[i] == whole[start + step * i]`` (slice, split, concatenation);
* ``product``: ``whole`` enumerates the positions of several factors in row-major order (view, reshape);
* ``freeze``: positions can never be removed, with the operation that froze them.

A fifth couples nothing. ``summed``: positions of a dimension are added up (or compared) over another one. A channel
that stays is the sum of what all experts have there, so they have no channels of their own then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Segment:
    """``part[i]`` is ``whole[start + step * i]``."""

    whole: int
    part: int
    start: int
    step: int
    operation: int


@dataclass(frozen=True)
class Product:
    """``whole`` has one position per combination of the factors' positions, the last factor fastest."""

    whole: int
    factors: tuple[int, ...]
    operation: int


@dataclass(frozen=True)
class Freeze:
    """A dimension that cannot be pruned, and why."""

    dim: int
    reason: str
    operation: int


class Sliced(NamedTuple):
    """A dimension that slices with constant bounds divide into equal parts.

    ``parts``: their number. ``part``: the dimension that every part is.
    """

    whole: int
    part: int
    parts: int
    operation: int


class Operation(NamedTuple):
    """One executed operation: its name (``aten.view``) and the path of the module that ran it."""

    name: str
    module: str

    def __str__(self) -> str:
        return f"{self.name} in {self.module or '(model)'}"


@dataclass
class Relations:
    """Relations between dimensions, recorded by a trace. Dimensions are integers; ``sizes[dim]`` is the number of
    positions.

    ``lines`` gives the ``file:line`` of the user's code for operations that freeze, slice or divide, by their number.
    """

    sizes: list[int] = field(default_factory=list)
    equals: list[tuple[int, int, int]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    balances: list[tuple[int, ...]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    sums: list[tuple[int, int, int]] = field(default_factory=list)
    lines: dict[int, str] = field(default_factory=dict)

    def new_dims(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Register one dimension for each size in ``shape`` and return their numbers."""
        first = len(self.sizes)
        self.sizes.extend(map(int, shape))
        return tuple(range(first, first + len(shape)))

    @property
    def current(self) -> int:
        """Number of the operation whose rule is running (-1 before the first)."""
        return len(self.operations) - 1

    def equal(self, first: int, second: int) -> None:
        """Relate two dimensions position by position; a dimension of size 1 broadcasts and relates to nothing."""
        if first == second or self.sizes[first] == 1 or self.sizes[second] == 1:
            return
        if self.sizes[first] != self.sizes[second]:
            self.freeze(first, "sizes differ where they were expected to be equal")
            self.freeze(second, "sizes differ where they were expected to be equal")
            return
        self.equals.append((first, second, self.current))

    def equal_all(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Relate two shapes aligned at their last dimension, as broadcasting does."""
        for a, b in zip(reversed(first), reversed(second), strict=False):
            self.equal(a, b)

    def segment(self, whole: int, part: int, start: int, step: int = 1) -> None:
        """State that ``part`` is the slice ``whole[start::step]``, as long as ``part`` is.

        A part of one position holds on to it: nothing of a size-1 dimension can be removed.
        """
        if start == 0 and step == 1 and self.sizes[whole] == self.sizes[part]:
            self.equal(whole, part)
        elif self.sizes[part]:
            self.segments.append(Segment(whole, part, start, step, self.current))
            if self.sizes[part] == 1:
                self.freezes.append(Freeze(part, "a single position is taken, which cannot become none", self.current))

    def product(self, whole: int, factors: Sequence[int]) -> None:
        """State that ``whole`` enumerates ``factors`` in row-major order."""
        live = tuple(factor for factor in factors if self.sizes[factor] != 1)
        if len(live) == 1:
            self.equal(whole, live[0])
        elif live:
            self.products.append(Product(whole, live, self.current))

    def freeze(self, dim: int, reason: str, operation: int | None = None) -> None:
        """Declare a dimension unprunable; size-1 dimensions have nothing to prune. The current operation is to
        blame unless the number of another one is given.
        """
        if self.sizes[dim] > 1:
            self.freezes.append(Freeze(dim, reason, self.current if operation is None else operation))

    def freeze_all(self, dims: Sequence[int], reason: str) -> None:
        """``freeze`` for each of ``dims``."""
        for dim in dims:
            self.freeze(dim, reason)

    def summed(self, over: Iterable[int], stays: Iterable[int]) -> None:
        """State that of one tensor the dimensions ``over`` end in this operation, and ``stays`` go on."""
        ends = [d for d in over if self.sizes[d] > 1]
        self.sums += [(d, other, self.current) for other in stays if self.sizes[other] > 1 for d in ends]


@dataclass(frozen=True)
class Trace:
    """Result of one traced forward: relations, and the dimensions of every parameter and buffer.

    ``tensors[name]`` are the dimension numbers of a parameter or buffer. ``aliases`` maps further names of tied tensors
    to the first one. ``buffers``: names of buffers. ``unknown`` counts operations that no rule handled. ``failed``: how
    a rule first failed. ``untouched``: parameters that no operation used. ``imagined``: number of answers that a
    weightless trace made up. ``made``: dimensions of every new result with its operation's number. ``sliced`` are
    dimensions that go only where the slices are seen to follow. ``idle``: parameters of which operations made only what
    has no effect. ``in_training`` names those of them, and of the unused ones, whose relations a training forward gave.
    ``as_twins``: unused ones that go as their twins do.
    """

    relations: Relations
    tensors: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    buffers: frozenset[str]
    unknown: Mapping[str, int]
    untouched: tuple[str, ...]
    imagined: Mapping[str, int] = field(default_factory=dict)
    made: Sequence[tuple[int, tuple[int, ...]]] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    sliced: tuple[Sliced, ...] = ()
    in_training: frozenset[str] = frozenset()
    as_twins: frozenset[str] = frozenset()
    idle: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter and buffer when it was traced."""
        return {name: [self.relations.sizes[dim] for dim in dims] for name, dims in self.tensors.items()}

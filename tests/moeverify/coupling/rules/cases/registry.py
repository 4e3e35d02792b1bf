"""Random calls of each operation that has a rule: one function a family draws its shapes and arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.moeverify.coupling.rules.removal import OneCall


class Draw:
    """What a case needs drawn: sizes, shapes, choices, and tensors whose values are distinct."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw
        self._generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def integer(self, low: int, high: int) -> int:
        """An integer of ``low`` to ``high``, both included."""
        return self._draw(st.integers(low, high))

    def flag(self) -> bool:
        """True or false."""
        return self._draw(st.booleans())

    def pick(self, options: Sequence[Any]) -> Any:
        """One of ``options``."""
        return self._draw(st.sampled_from(options))

    def order(self, items: Sequence[Any]) -> list[Any]:
        """``items`` in any order."""
        return self._draw(st.permutations(items))

    def some(self, items: Sequence[Any], least: int = 0) -> list[Any]:
        """At least ``least`` different ones of ``items``, in order."""
        chosen = self._draw(st.sets(st.sampled_from(items), min_size=least)) if items else set()
        return [item for item in items if item in chosen]

    def shape(self, low: int = 1, high: int = 4, *, least: int = 1, most: int = 5) -> list[int]:
        """A shape of ``low`` to ``high`` dimensions of ``least`` to ``most`` positions."""
        return self._draw(st.lists(st.integers(least, most), min_size=low, max_size=high))

    def dim(self, rank: int) -> int:
        """A dimension of a tensor of this rank, counted from either end."""
        return self.integer(-rank, rank - 1)

    def tensor(self, *shape: int) -> torch.Tensor:
        """Normal values in float64."""
        return torch.randn(shape, dtype=torch.float64, generator=self._generator)

    def broadcast(self, shape: Sequence[int]) -> torch.Tensor:
        """A tensor that broadcasts to ``shape``: leading dimensions missing, some of size 1."""
        kept = shape[self.integer(0, len(shape)) :]
        return self.tensor(*(self.pick([size, size, 1]) for size in kept))

    def positions(self, below: int, *shape: int) -> torch.Tensor:
        """Indices below a bound, repetitions allowed."""
        return torch.randint(0, max(below, 1), shape, generator=self._generator)

    def distinct(self, below: int, count: int) -> torch.Tensor:
        """``count`` different indices below a bound."""
        return torch.randperm(below, generator=self._generator)[:count]

    def mask(self, *shape: int) -> torch.Tensor:
        """Random booleans."""
        return torch.randint(0, 2, shape, generator=self._generator).bool()


Case = Callable[[Draw, str], OneCall]
CASES: dict[str, Case] = {}


def cases(*names: str) -> Callable[[Case], Case]:
    """Register how calls of these operations are drawn; the function gets the name."""

    def register(function: Case) -> Case:
        for name in names:
            assert name not in CASES, name
            CASES[name] = function
        return function

    return register


@st.composite
def calls_of(draw: Callable[[Any], Any], name: str) -> OneCall:
    """Calls of one operation."""
    return CASES[name](Draw(draw), name)


@functools.cache
def examples(name: str, count: int) -> tuple[OneCall, ...]:
    """The same ``count`` calls of an operation each time."""
    found: list[OneCall] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls_of(name))
    def collect(call: OneCall) -> None:
        found.append(call)

    collect()
    return tuple(found)

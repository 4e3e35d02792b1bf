"""Cycles for a dependency graph's own edges: dependencies that no operation of the model states.

They are plain data, to be given to any graph that can take a dependency: a source and a target place (parameter,
dimension) and where each position goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from synthetic_models.spec import Spec
from synthetic_models.truth import Truth

KINDS = ("self", "ring", "across_experts")
TensorAxis = tuple[str, int]


@dataclass(frozen=True)
class Edge:
    """Pruning a position of ``source`` prunes ``goes_to(position)`` of ``target``, if that is not ``None``."""

    source: TensorAxis
    target: TensorAxis
    goes_to: Callable[[int], int | None]


def edge_cycle(spec: Spec, known: Truth, kind: str, strength: int) -> list[Edge]:
    """The edges of a cycle; empty if the spec has no place for it.

    ``self``: the first expert's channels depend on themselves, ``strength`` positions on. ``ring``: the first expert's
    channels, hidden ones (if they are not frozen) and those of every other part outside the experts, each on the
    next, ``strength`` positions on at every step. ``across_experts``: two experts' channels, both ways.
    """
    places = {key: _place(units) for key, units in known.classes.items()}
    experts = [key for key in places if key.startswith("expert")]
    first = places[experts[0]]
    if kind == "self":
        return [_shift(first, first, strength)]
    if kind == "ring":
        others = [place for key, place in places.items() if not key.startswith("expert")]
        ring = [first, *others]
        return [_shift(a, b, strength) for a, b in zip(ring, [*ring[1:], first], strict=True)]
    if len(experts) < 2:
        return []
    second = places[experts[1]]
    return [_shift(first, second, strength), _shift(second, first, strength)]


def _place(units: tuple[frozenset[tuple[str, int, int]], ...]) -> tuple[TensorAxis, list[int]]:
    """Where a class can be cut, and the position there of each unit."""
    parameter, dim, _ = min(units[0])
    return (parameter, dim), [min(p for n, d, p in unit if (n, d) == (parameter, dim)) for unit in units]


def _shift(source: tuple[TensorAxis, list[int]], target: tuple[TensorAxis, list[int]], strength: int) -> Edge:
    (from_axis, positions), (to_axis, others) = source, target
    goes = {p: others[(number + strength) % len(others)] for number, p in enumerate(positions)}
    return Edge(from_axis, to_axis, lambda position: goes.get(position))

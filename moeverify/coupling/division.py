"""Whether each of several fused experts can keep its own channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.coupling.solving.sums import Sums

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Division:
    """Division of a class of fused experts among them.

    ``experts``: their number; each keeps its own channels, the same number in every expert. 0 if they cannot.
    ``in_turn``: the ``(parameter, dim)`` laid out expert-major; every other member is a stack with a slice per expert.
    ``joint``: what couples the experts, if ``experts`` is 0.
    """

    experts: int = 0
    in_turn: frozenset[tuple[str, int]] = frozenset()
    joint: str = ""


def divide(coupling: CouplingClass, experts: int, shapes: Shapes, sums: Sums | None = None) -> Division:
    """The division of a class of fused experts among ``experts``.

    Each member must be a stack ``[experts, ...]`` cut inside its slices, or an expert-major dimension. No operation
    may sum over the experts; only a trace (``sums``) shows that.
    """
    in_turn = set()
    for member in coupling.members:
        stack = _is_stack(member, experts, shapes[member.parameter])
        if not stack and not _in_turn(member, experts, shapes[member.parameter][member.dim]):
            return Division(joint=f"all experts read the same channels of {member.parameter}")
        if sums is not None and (operation := sums.over_experts(member, not stack)) is not None:
            return Division(joint=f"{operation} adds up the channels of all experts in {member.parameter}")
        if not stack and sums is not None and (operation := sums.across_experts(member)) is not None:
            return Division(joint=f"{operation} lays the channels of all experts across the rows of {member.parameter}")
        if not stack:
            in_turn.add((member.parameter, member.dim))
    return Division(experts, frozenset(in_turn))


def _is_stack(member: Member, experts: int, shape: Sequence[int]) -> bool:
    # A stack may hold more slices than there are experts: experts that compute nothing.
    return member.dim > 0 and (shape[0] == experts or (len(shape) == 3 and shape[0] > experts))


def _in_turn(member: Member, experts: int, size: int) -> bool:
    """Whether the dimension is expert-major: every unit has equally many positions in each expert's block."""
    block, rest = divmod(size, experts)
    share, uneven = divmod(member.positions.shape[1], experts)
    return not rest and not uneven and (member.positions // block == np.repeat(np.arange(experts), share)).all()

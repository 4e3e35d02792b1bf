"""Whether experts in common parameters can each lose channels of their own: how a class divides among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.coupling.solving.sums import Sums

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Division:
    """``experts`` that each choose their channels, as many as the others; ``in_turn`` the ``(parameter, dim)`` along
    which one expert's follow another's, where all other members are stacks with a slice for each.

    If they cannot, ``experts`` is 0 and ``joint`` says what couples them.
    """

    experts: int = 0
    in_turn: frozenset[tuple[str, int]] = frozenset()
    joint: str = ""


def divide(coupling: CouplingClass, experts: int, shapes: Shapes, sums: Sums | None = None) -> Division:
    """How the class of ``experts`` in common parameters divides among them.

    Each member must be a stack ``[experts, ...]`` cut inside its slices, or a dimension that is the product of experts
    and channels; and nothing may add up the experts' channels, which only a trace (``sums``) knows.
    """
    in_turn = set()
    for member in coupling.members:
        stack = _is_stack(member, experts, shapes[member.parameter])
        if not stack and not _in_turn(member, experts, shapes[member.parameter][member.dim]):
            return Division(joint=f"all experts read the same channels of {member.parameter}")
        if sums is not None and (operation := sums.over_experts(member, not stack)) is not None:
            return Division(joint=f"{operation} adds up the channels of all experts in {member.parameter}")
        if not stack:
            in_turn.add((member.parameter, member.dim))
    return Division(experts, frozenset(in_turn))


def _is_stack(member: Member, experts: int, shape: Sequence[int]) -> bool:
    # A stack may hold more slices than there are experts: experts that compute nothing.
    return member.dim > 0 and (shape[0] == experts or (len(shape) == 3 and shape[0] > experts))


def _in_turn(member: Member, experts: int, size: int) -> bool:
    """Whether every unit has as many positions of each expert, one expert after the other."""
    block, rest = divmod(size, experts)
    share, uneven = divmod(member.positions.shape[1], experts)
    return not rest and not uneven and (member.positions // block == np.repeat(np.arange(experts), share)).all()

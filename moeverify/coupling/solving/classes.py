"""Coupling classes: what can only be removed together, and what cannot be removed at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from moeverify.coupling.relations import Freeze


@dataclass(frozen=True, eq=False)
class Member:
    """Positions that each unit of a class occupies in one parameter (or buffer).

    ``positions`` has shape ``[units, positions per unit]``: row ``u`` lists the positions along ``dim`` that are
    removed with unit ``u``, ascending. The array is read-only: members that look alike share it.
    """

    parameter: str
    dim: int
    positions: np.ndarray
    buffer: bool = False


@dataclass(frozen=True, eq=False)
class CouplingClass:
    """Units that are alike (they occupy the same dimensions of the same parameters) and removable one by one."""

    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.members[0].positions)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters (not buffers) that the class touches."""
        return frozenset(m.parameter for m in self.members if not m.buffer)


@dataclass(frozen=True)
class FrozenDim:
    """A parameter's dimension with positions that can never be removed, and the operation that froze it.

    ``line`` is the ``file:line`` of the user's code that asked for the operation, empty if it is not known.
    ``positions`` are ascending, a ``range`` where they are consecutive. ``cause`` is the statement of the trace that
    the freeze spread from.
    """

    parameter: str
    dim: int
    positions: Sequence[int]
    reason: str
    operation: str
    cause: Freeze | None = field(default=None, repr=False, compare=False)
    line: str = field(default="", compare=False)

    def __str__(self) -> str:
        # Nothing is computed where the model as a whole is meant: its inputs, its outputs, what it never used.
        by = "" if self.operation.startswith("(model)") else self.operation
        by = ", at ".join(text for text in (by, self.line) if text)
        return f"dimension {self.dim} of {self.parameter} is frozen: {self.reason}" + (f" ({by})" if by else "")

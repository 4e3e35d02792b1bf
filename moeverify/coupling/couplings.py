"""The result of a trace as its users see it: classes, what is frozen, and why two channels go together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from moeverify.coupling.solve import CouplingClass, FrozenDim, Links, link, solve
from moeverify.coupling.trace import Trace, trace
from moeverify.errors import UsageError
from moeverify.roles import Roles, find_roles


@dataclass(frozen=True)
class Explanation:
    """Why one channel cannot go alone.

    ``together`` lists ``(parameter, dim, positions, chain of operations)``; ``frozen`` is set instead where the
    channel can never be removed.
    """

    parameter: str
    dim: int
    position: int
    together: tuple[tuple[str, int, tuple[int, ...], tuple[str, ...]], ...] = ()
    frozen: FrozenDim | None = None


@dataclass(frozen=True)
class CouplingMap:
    """Coupling classes of a model.

    ``classes`` in the order of the parameters, ``frozen`` with the operation that froze each dimension,
    ``unknown_operations`` with the number of their calls, ``links`` with the decided relations between dimensions.
    """

    classes: tuple[CouplingClass, ...]
    frozen: tuple[FrozenDim, ...]
    unknown_operations: Mapping[str, int]
    trace: Trace
    links: Links

    @cached_property
    def _edges(self) -> dict[int, list[tuple[int, int]]]:
        relations = self.trace.relations
        edges: dict[int, list[tuple[int, int]]] = {}
        pairs = [*relations.equals, *((s.whole, s.part, s.operation) for s in relations.segments)]
        pairs += [(p.whole, f, p.operation) for p in relations.products for f in p.factors]
        for a, b, operation in pairs:
            edges.setdefault(a, []).append((b, operation))
            edges.setdefault(b, []).append((a, operation))
        return edges

    def explain(self, parameter: str, dim: int, position: int) -> Explanation:
        """Which channels go along with one, and by which operations.

        Raises ``UsageError`` for a parameter, dimension or position that the model does not have.
        """
        parameter = self.trace.aliases.get(parameter, parameter)
        dims = self.trace.tensors.get(parameter)
        if dims is None or not 0 <= dim < len(dims):
            raise UsageError(f"no dimension {dim} of a parameter {parameter!r}; see `moeverify inspect` for the names")
        if not 0 <= position < self.trace.relations.sizes[dims[dim]]:
            raise UsageError(f"{parameter} dimension {dim} has no position {position}")
        for frozen in self.frozen:
            if frozen.parameter == parameter and frozen.dim == dim and position in frozen.positions:
                return Explanation(parameter, dim, position, frozen=frozen)
        for coupling in self.classes:
            for member in coupling.members:
                if member.parameter == parameter and member.dim == dim and position in member.positions:
                    unit = int((member.positions == position).any(axis=1).argmax())
                    return self._explain_unit(coupling, unit, parameter, dim, position)
        return Explanation(parameter, dim, position)

    def _explain_unit(self, coupling: CouplingClass, unit: int, parameter: str, dim: int, position: int) -> Explanation:
        start = self.trace.tensors[parameter][dim]
        came: dict[int, tuple[int, int]] = {start: (start, -1)}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            for there, operation in self._edges.get(here, ()):
                if there not in came:
                    came[there] = (here, operation)
                    queue.append(there)
        together = []
        for member in coupling.members:
            target = self.trace.tensors[member.parameter][member.dim]
            chain: list[str] = []
            while target in came and target != start:
                target, operation = came[target]
                chain.append(str(self.trace.relations.operations[operation]))
            positions = tuple(int(p) for p in member.positions[unit])
            together.append((member.parameter, member.dim, positions, tuple(reversed(chain))))
        return Explanation(parameter, dim, position, together=tuple(together))


def trace_couplings(
    model: nn.Module,
    example_inputs: Any,
    *,
    roles: Roles | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    output_transform: Callable[[Any], Any] | None = None,
) -> CouplingMap:
    """Trace one forward of ``model`` and return its coupling classes.

    ``example_inputs`` is a mapping (keywords), a sequence (positions) or one tensor. The model is left as it was.
    Raises ``TraceError`` if its forward fails.
    """
    found = find_roles(model, roles)
    traced = trace(
        model,
        example_inputs,
        forward_fn=forward_fn,
        output_transform=output_transform,
        expert_lists=[layer.experts for layer in found.layers if not layer.fused],
    )
    links = link(traced)
    classes, frozen = solve(traced, links)
    return CouplingMap(classes, frozen, traced.unknown, traced, links)

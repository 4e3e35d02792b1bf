"""Roles of coupling classes: hidden channels, one expert's channels, heads and so on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from moeverify.coupling.couplings import CouplingMap
from moeverify.coupling.division import Division, divide
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.models.roles import FoundRoles

ROLES = ("hidden", "routed_experts", "shared_experts", "dense_mlp", "heads", "other")


@dataclass(frozen=True, eq=False)
class PruningClass:
    """A coupling class with its role.

    ``where`` is the module it lives in (empty for the residual stream). ``experts`` is the number of fused experts that
    can each keep their own channels, equally many in each; else 0. ``in_turn`` are the ``(parameter, dim)`` laid out
    expert-major; the other members of such a class are stacks with a slice for each expert. ``joint``: why fused
    experts must keep the same channels, if so.
    """

    coupling: CouplingClass
    role: str
    where: str
    experts: int = 0
    in_turn: frozenset[tuple[str, int]] = frozenset()
    joint: str = ""

    @property
    def name(self) -> str:
        """A readable name, such as ``routed_experts of model.layers.0.mlp.experts``."""
        return f"{self.role} of {self.where}" if self.where else self.role

    def of_expert(self, member: Member, expert: int) -> np.ndarray:
        """Positions ``[units, positions per unit]`` of one expert in a member.

        They count inside the expert's slice of a stack, or in the whole of an expert-major dimension.
        """
        if (member.parameter, member.dim) not in self.in_turn:
            return member.positions
        return member.positions.reshape(len(member.positions), self.experts, -1)[:, expert]


def _common_module(names: Iterable[str]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)


def _contiguous_blocks(positions: np.ndarray) -> bool:
    """Whether each unit holds runs of neighbouring positions, as attention heads do."""
    return positions.shape[1] > 1 and bool((np.diff(np.sort(positions[:, :2], axis=1), axis=1) == 1).all())


def embedding_weights(model: nn.Module) -> set[str]:
    """Names of all embeddings' weights. Exception: a table inside of attention, such as biases by distance."""
    tables = nn.Embedding | nn.EmbeddingBag
    names = (name for name, module in model.named_modules() if isinstance(module, tables) and name)
    return {weight for name in names if not is_attention(weight := f"{name}.weight")}


def is_hidden(parameter: str, dim: int, embeddings: set[str], roles: FoundRoles) -> bool:
    """Whether a dimension is what an embedding gives or a router reads."""
    if parameter in embeddings:
        return dim == 1
    return parameter.rpartition(".")[0] in roles.routers and parameter.endswith(".weight") and dim == 1


def is_attention(parameter: str) -> bool:
    """Whether a parameter lies in a module of attention, by the usual names."""
    return any("attn" in part or "attention" in part for part in parameter.lower().split(".")[:-1])


def classify(
    model: nn.Module, classes: Iterable[CouplingClass], roles: FoundRoles, couplings: CouplingMap | None = None
) -> tuple[PruningClass, ...]:
    """Classes with their roles, from the modules that they touch.

    ``couplings``: the trace that the classes come from, if any. It holds the shapes before the model was cut, and the
    sums that couple experts.
    """
    embeddings = embedding_weights(model)
    common = {layer.container: len(layer.experts) for layer in roles.layers if layer.stacks}
    if couplings is None:
        shapes = {n: list(t.shape) for n, t in (*model.named_parameters(), *model.named_buffers())}
    else:
        shapes = couplings.trace.shapes
    result = []
    for coupling in classes:
        names = sorted(coupling.parameters)
        boundaries = {roles.boundary(name) for name in names}
        shared = {roles.shared(name) for name in names}
        where = _common_module(names)
        if boundaries != {None} and len(boundaries) == 1:
            (container,) = boundaries
            experts, sums = common.get(container or ""), None if couplings is None else couplings.sums
            division = divide(coupling, experts, shapes, sums) if experts else Division()
            found = PruningClass(coupling, "routed_experts", container or "", division.experts, division.in_turn)
            result.append(replace(found, joint=division.joint))
        elif any(is_hidden(m.parameter, m.dim, embeddings, roles) for m in coupling.members):
            result.append(PruningClass(coupling, "hidden", ""))
        elif shared != {None} and len(shared) == 1:
            result.append(PruningClass(coupling, "shared_experts", shared.pop() or ""))
        elif any(m.dim == 0 and _contiguous_blocks(m.positions) for m in coupling.members):
            result.append(PruningClass(coupling, "heads", where))
        elif "mlp" in where or "ffn" in where or "feed_forward" in where:
            result.append(PruningClass(coupling, "dense_mlp", where))
        else:
            result.append(PruningClass(coupling, "other", where))
    return tuple(result)

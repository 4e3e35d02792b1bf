"""What a coupling class is to a Mixture-of-Experts model: hidden channels, one expert's channels, heads ..."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import nn

from moeverify.coupling.solve import CouplingClass, Member
from moeverify.pruning.live import LiveIndex
from moeverify.roles import FoundRoles

ROLES = ("hidden", "routed_experts", "shared_experts", "dense_mlp", "heads", "other")
OTHER = "other"
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class PruningClass:
    """A coupling class with its role.

    ``where`` is the module it lives in (empty for the residual stream). ``experts`` is the number of experts in common
    parameters whose channels the class holds: each of them may keep other channels, as many as the others; 0 elsewhere.
    ``in_turn`` are the ``(parameter, dim)`` along which one expert's channels follow another's; the other members of
    such a class are stacks with a slice for each expert.
    """

    coupling: CouplingClass
    role: str
    where: str
    experts: int = 0
    in_turn: frozenset[tuple[str, int]] = frozenset()

    @property
    def name(self) -> str:
        """A readable name, such as ``routed_experts of model.layers.0.mlp.experts``."""
        return f"{self.role} of {self.where}" if self.where else self.role

    def of_expert(self, member: Member, expert: int) -> np.ndarray:
        """Positions ``[units, positions per unit]`` that one expert has in a member: in its slice of a stack, or in
        the whole dimension where experts come in turn."""
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
    """Names of all embeddings' weights."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding) and name}


def is_hidden(parameter: str, dim: int, embeddings: set[str], roles: FoundRoles) -> bool:
    """Whether a dimension is what an embedding gives or a router reads."""
    if parameter in embeddings:
        return dim == 1
    return parameter.rpartition(".")[0] in roles.routers and parameter.endswith(".weight") and dim == 1


def is_attention(parameter: str) -> bool:
    """Whether a parameter lies in a module of attention, by the usual names."""
    return any("attn" in part or "attention" in part for part in parameter.split(".")[:-1])


def classify(
    model: nn.Module, classes: Iterable[CouplingClass], roles: FoundRoles, shapes: Shapes | None = None
) -> tuple[PruningClass, ...]:
    """Give every class its role, from the modules it touches.

    ``shapes`` are those of parameters and buffers when the classes were found, if the model was cut since.
    """
    embeddings = embedding_weights(model)
    common = {layer.container: len(layer.experts) for layer in roles.layers if layer.layout != "listed"}
    if shapes is None:
        shapes = {n: t.shape for n, t in (*model.named_parameters(), *model.named_buffers())}
    result = []
    for coupling in classes:
        names = sorted(coupling.parameters)
        boundaries = {roles.boundary(name) for name in names}
        shared = {roles.shared(name) for name in names}
        where = _common_module(names)
        if boundaries != {None} and len(boundaries) == 1:
            (container,) = boundaries
            experts = common.get(container or "")
            own = _each_its_own(coupling, experts, shapes) if experts else (0, frozenset())
            result.append(PruningClass(coupling, "routed_experts", container or "", *own))
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


def place_of_experts(member: Member, experts: int, shape: Sequence[int]) -> Literal["stack", "in turn"] | None:
    """How a member divides among ``experts``: a stack ``[experts, ...]`` cut inside its slices, or a dimension with as
    many positions of each expert in every unit, one expert after the other; ``None`` if all of them read the same."""
    # A stack may hold more slices than there are experts: experts that compute nothing.
    if member.dim > 0 and (shape[0] == experts or (len(shape) == 3 and shape[0] > experts)):
        return "stack"
    block, rest = divmod(shape[member.dim], experts)
    share, uneven = divmod(member.positions.shape[1], experts)
    if rest or uneven or (member.positions // block != np.repeat(np.arange(experts), share)).any():
        return None
    return "in turn"


def _each_its_own(coupling: CouplingClass, experts: int, shapes: Shapes) -> tuple[int, frozenset[tuple[str, int]]]:
    """``experts`` in common parameters if each can choose its channels apart, else 0, and where they come in turn."""
    found = {(m.parameter, m.dim): place_of_experts(m, experts, shapes[m.parameter]) for m in coupling.members}
    if None in found.values():
        return 0, frozenset()
    return experts, frozenset(place for place, kind in found.items() if kind == "in turn")


def renumber(classes: Iterable[PruningClass], live: LiveIndex) -> tuple[PruningClass, ...]:
    """Classes as they are after parts were cut: units that are gone left out, positions as they are numbered now."""
    if not live.version:
        return tuple(classes)
    result = []
    for pruning_class in classes:
        members: list[Member] = []
        left = np.arange(pruning_class.coupling.size)
        for member in pruning_class.coupling.members:
            _, rows = live.present((member.parameter, member.dim), member.positions[:, 0])
            left = np.intersect1d(left, rows)
        for member in pruning_class.coupling.members:
            positions = member.positions[left]
            present, _ = live.present((member.parameter, member.dim), positions.ravel())
            members.append(replace(member, positions=present.reshape(positions.shape)))
        if len(left):
            result.append(replace(pruning_class, coupling=CouplingClass(tuple(members))))
    return tuple(result)

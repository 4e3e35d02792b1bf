"""Routed experts in expert-major matrices, which a forward divides into as many parts as a router has outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from moeverify.models.model_tree import LISTS
from moeverify.models.moe_layer import FoundRoles, MoELayer, ancestors, parent
from moeverify.models.role_search import NO_EXPERTS, RoleSearch


@dataclass(frozen=True)
class ExpertMajor:
    """Matrices that a forward divides into ``count`` equal parts which never meet.

    ``axes``: for each parameter the dimension that is divided, part after part. Example: ``fc1.weight`` dim 0 and
    ``fc2.weight`` dim 1 with a ``view(..., count, -1)`` between them.
    """

    count: int
    axes: Mapping[str, int]

    @property
    def place(self) -> str:
        """The module around all of the parameters."""
        levels = zip(*(name.split(".")[:-1] for name in self.axes), strict=False)
        common = []
        for level in levels:
            if len(set(level)) > 1:
                break
            common.append(level[0])
        return ".".join(common)


def with_expert_major(model: nn.Module, found: FoundRoles, proposals: Iterable[ExpertMajor]) -> FoundRoles:
    """Roles with a new MoE layer for each proposal that a router scores and that no known expert overlaps."""
    search = RoleSearch(model, found.rules)
    layers = list(found.layers)
    for proposal in _joined(proposals):
        if not _taken(found, layers, proposal) and (layer := _layer(search, proposal)) is not None:
            layers.append(layer)
    new = layers[len(found.layers) :]
    if not new:
        return found
    order = {name: position for position, name in enumerate(search.modules)}
    named = {path for layer in new for path in ancestors(layer.container)}
    unrecognised = tuple(name for name in found.unrecognised if name not in named)
    answered = (NO_EXPERTS, *(f"{name} is named as experts" for name in found.unrecognised if name in named))
    notes = [note for note in found.notes if not note.startswith(answered)]
    notes += [f"{layer.container}: experts recognised by what the forward divides, not by name" for layer in new]
    layers.sort(key=lambda layer: order[layer.container])
    return replace(found, layers=tuple(layers), notes=tuple(notes), unrecognised=unrecognised)


def without(found: FoundRoles, layers: Collection[MoELayer]) -> FoundRoles:
    """Roles without layers whose stacks the forward reads as something else, with a note on each."""
    if not layers:
        return found
    rest = tuple(layer for layer in found.layers if layer not in layers)
    gone = tuple(f"{layer.container}: experts recognised" for layer in layers)
    notes = [note for note in found.notes if not note.startswith(gone)]
    notes += [
        f"{layer.container}: the first dimension of {layer.stacks[0]} holds channels, no experts" for layer in layers
    ]
    if not rest:
        notes.append(NO_EXPERTS)
    return replace(found, layers=rest, notes=tuple(notes))


def _joined(proposals: Iterable[ExpertMajor]) -> list[ExpertMajor]:
    """Proposals merged by place and count: layers of the same experts. Left out: a parameter divided twice."""
    joined: dict[tuple[str, int], dict[str, int]] = {}
    for proposal in proposals:
        axes = joined.setdefault((proposal.place, proposal.count), {})
        if all(axes.get(name, dim) == dim for name, dim in proposal.axes.items()):
            axes |= proposal.axes
    return [ExpertMajor(count, axes) for (_, count), axes in joined.items()]


def _taken(found: FoundRoles, layers: Iterable[MoELayer], proposal: ExpertMajor) -> bool:
    """Whether experts are known inside or around the place of a proposal, or it lies in a shared expert."""
    if any(found.boundary(name) is not None or found.shared(name) is not None for name in proposal.axes):
        return True
    around = {proposal.place, *ancestors(proposal.place)}
    return any(
        layer.container in around or layer.name in around or proposal.place in ancestors(layer.container)
        for layer in layers
    )


def _layer(search: RoleSearch, proposal: ExpertMajor) -> MoELayer | None:
    """The MoE layer of a proposal, if its module or the parent holds a router with one output for each part."""
    place = proposal.place
    while place and isinstance(search.modules[place], (*LISTS, nn.ParameterList, nn.ParameterDict, nn.Sequential)):
        place = parent(place)
    if any(word in place.lower() for word in ("attn", "attention")) and not search.counted(place, proposal.count):
        return None  # gated heads
    stacks = tuple(proposal.axes)
    columns = frozenset(name for name, dim in proposal.axes.items() if dim)
    evidence = f"the forward divides {', '.join(stacks)} into {proposal.count} parts that never meet"
    for name in dict.fromkeys((place, parent(place))):
        layer = search.scored(name, place, proposal.count, "rows", evidence, stacks)
        if layer is not None:
            return replace(layer, columns=columns)
    return None

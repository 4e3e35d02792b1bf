"""MoE layers as found in a model: which modules and parameters play which part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from moeverify.models.role_rules import Roles

Layout = Literal["fused", "listed", "parallel", "rows"]


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer: paths of its modules.

    Layers that use the same experts are one ``MoELayer``, with the routers and shared experts of all.
    ``layout`` is how the routed experts are stored. ``listed``: as modules of their own (``experts`` are their paths).
    ``parallel``: in several lists, one entry of each for every expert; ``members`` holds the paths of these entries,
    expert by expert, and they may be modules or parameters.
    ``fused``: in parameters ``[experts, ..., ...]`` that leave each expert its own channels. ``rows``: in matrices
    whose rows (or columns) belong to one expert after the other. In all but the first ``experts`` are
    ``container[number]``.
    ``stacks`` names the parameters that hold all experts; it is empty for listed ones. ``columns`` are those of them
    that hold the experts along their second dimension. ``router_parameters`` names parameters of the layer itself that
    score the experts, where no module of their own does. ``evidence`` says by what each path was given its role.
    ``router_axes`` holds for each router tensor the dimension that counts experts; ``None`` where only sizes tell.
    """

    name: str
    container: str
    experts: tuple[str, ...]
    layout: Layout
    routers: tuple[str, ...]
    shared_experts: tuple[str, ...]
    stacks: tuple[str, ...] = ()
    router_parameters: tuple[str, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict, compare=False)
    router_axes: Mapping[str, int] | None = field(default=None, compare=False)
    columns: frozenset[str] = frozenset()
    members: tuple[tuple[str, ...], ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """For each expert the paths that are its own, of modules or parameters; empty where stacks hold all experts."""
        return tuple((path,) for path in self.experts) if self.layout == "listed" else self.members

    def owner(self, name: str) -> int | None:
        """The number of the expert in whose own modules or parameters a path lies."""
        return next((number for path in ancestors(name) if (number := self._owners.get(path)) is not None), None)

    @cached_property
    def _owners(self) -> dict[str, int]:
        return {path: number for number, paths in enumerate(self.parts) for path in paths}

    def axis(self, stack: str) -> int:
        """The dimension of a stack along which the experts lie."""
        return int(stack in self.columns)

    @property
    def fused(self) -> bool:
        """Whether each expert's channels can be chosen apart although one parameter holds all of them."""
        return self.layout == "fused"

    @property
    def holders(self) -> tuple[str, ...]:
        """The modules that own the experts' parameters: the experts themselves if listed, or the lists of them."""
        if self.layout == "listed":
            return self.experts
        if self.layout == "parallel":
            return tuple(dict.fromkeys(parent(path) for paths in self.members for path in paths))
        return tuple(dict.fromkeys(stack.rpartition(".")[0] for stack in self.stacks))


@dataclass(frozen=True)
class FoundRoles:
    """All MoE layers of a model, in the order of its modules.

    ``notes``: text on what could not be found. ``unrecognised``: the paths of modules named as experts whose layout is
    not known. ``outside`` are modules inside a container of stacked experts that hold no stack themselves. Examples:
    its router, or a projection that all experts share. ``rules`` are those of the search.
    """

    layers: tuple[MoELayer, ...]
    notes: tuple[str, ...] = ()
    unrecognised: tuple[str, ...] = ()
    outside: frozenset[str] = frozenset()
    rules: Roles = field(default_factory=Roles, compare=False)

    @property
    def experts(self) -> tuple[str, ...]:
        """Every routed expert."""
        return tuple(e for layer in self.layers for e in layer.experts)

    @property
    def routers(self) -> tuple[str, ...]:
        """Every router."""
        return tuple(r for layer in self.layers for r in layer.routers)

    @property
    def shared_experts(self) -> tuple[str, ...]:
        """Every shared expert."""
        return tuple(s for layer in self.layers for s in layer.shared_experts)

    @cached_property
    def experts_in_stack(self) -> dict[str, int]:
        """Number of routed experts by the name of each parameter that holds all experts of a layer."""
        return {name: len(layer.experts) for layer in self.layers if layer.fused for name in layer.stacks}

    @cached_property
    def _boundaries(self) -> dict[str, str]:
        result: dict[str, str] = {}
        for layer in self.layers:
            result |= {path: layer.experts[number] for number, paths in enumerate(layer.parts) for path in paths}
            if not layer.parts:
                result |= dict.fromkeys(layer.holders, layer.container)
        return result

    @cached_property
    def _shared(self) -> frozenset[str]:
        return frozenset(self.shared_experts)

    def boundary(self, name: str) -> str | None:
        """The routed expert that a module or parameter path lies in: ``None`` outside, the container where one
        parameter holds all experts.
        """
        beside = False
        for path in ancestors(name):
            beside = beside or path in self.outside
            if path in self._boundaries and not (beside and path not in self._apart):
                return self._boundaries[path]
        return None

    @cached_property
    def _apart(self) -> frozenset[str]:
        return frozenset(path for layer in self.layers for paths in layer.parts for path in paths)

    @cached_property
    def _layers(self) -> dict[str, MoELayer]:
        return {
            boundary: layer
            for layer in self.layers
            for boundary in (layer.experts if layer.parts else (layer.container,))
        }

    def layer_of(self, boundary: str) -> MoELayer | None:
        """The MoE layer that a boundary belongs to: that of an expert apart, or of a container of fused experts."""
        return self._layers.get(boundary)

    def shared(self, name: str) -> str | None:
        """The shared expert that a path lies in, if any."""
        return next((p for p in ancestors(name) if p in self._shared), None)


def ancestors(name: str) -> Iterator[str]:
    """The path itself and every path above it, innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def parent(name: str) -> str:
    """The path of the module around."""
    return name.rpartition(".")[0]


def last(name: str) -> str:
    """The last part of a path."""
    return name.rpartition(".")[2]

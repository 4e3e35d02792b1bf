"""A model with its trace, and with what was cut from it since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_pruning.dependency import Node

from moeverify.coupling.couplings import CouplingMap
from moeverify.models.roles import FoundRoles
from moeverify.pruning.graph.live import LiveIndex, Place
from moeverify.pruning.graph.nodes import Nodes
from moeverify.pruning.plan.apply import OwnFunction, apply_keep
from moeverify.pruning.plan.plan import Cut, make_plan


class TracedModel:
    """A model with its couplings and nodes, from which groups are built and pruned.

    Torch-Pruning's graph is an interface to it. ``couplings`` and ``nodes`` never change. ``live`` and ``history``,
    which holds Torch-Pruning's entries, follow what is cut.
    """

    def __init__(
        self, model: nn.Module, roles: FoundRoles, couplings: CouplingMap, nodes: Nodes, history: list[list[Any]]
    ) -> None:
        self.model, self.roles, self.couplings, self.nodes, self.history = model, roles, couplings, nodes, history
        shapes = couplings.trace.shapes
        self.live = LiveIndex({(n, axis): size for n, shape in shapes.items() for axis, size in enumerate(shape)})

    def own_functions(self) -> dict[str, OwnFunction]:
        """The pruning functions of opaque layers, each with its present number of channels."""
        return self.nodes.own_functions(self.live.size)

    @torch.no_grad()
    def cut(self, removed: Mapping[Place, np.ndarray]) -> None:
        """Remove present positions from the model, all or nothing."""
        self.keep({place: np.setdiff1d(np.arange(self.live.size(place)), gone) for place, gone in removed.items()})

    def keep(self, keep: Mapping[Place, np.ndarray]) -> None:
        """Keep only these present positions of each place, all or nothing."""
        apply_keep(self.model, keep, self.own_functions())
        self.live.cut(keep)

    def cut_experts(self, cut: Cut) -> None:
        """Carry out the cut of experts that each keep channels of their own, all or nothing."""
        members = {(m.parameter, m.dim): m for m in cut.pruning_class.coupling.members}
        sizes = {place: self.live.size(place) for name, dim in members for place in ((name, 0), (name, dim))}
        apply_keep(self.model, make_plan([cut], sizes).keep, self.own_functions())
        self.live.cut({p: np.setdiff1d(np.arange(sizes[p]), cut.as_first(m)) for p, m in members.items()})

    def remember(self, name: str, is_output: bool, indices: Sequence[Any]) -> None:
        """Add a pruned root to the history: its present positions, or those of each fused expert."""
        self.history.append([name, is_output, list(indices)])


class ShowsTraced:
    """Shows the parts of ``traced`` as attributes, under the names that Torch-Pruning and users read."""

    traced: TracedModel

    @property
    def couplings(self) -> CouplingMap:
        """The whole result of the trace."""
        return self.traced.couplings

    @property
    def nodes(self) -> Nodes:
        """The layers or parameters, each with the function that cuts a tensor's axis."""
        return self.traced.nodes

    @property
    def live(self) -> LiveIndex:
        """The positions that are left, and their present places."""
        return self.traced.live

    @property
    def module2node(self) -> dict[Any, Node]:
        """Torch-Pruning's node of every layer and of every parameter outside of one."""
        return self.nodes.module2node

    @property
    def _module2name(self) -> dict[Any, str]:
        return self.nodes.names

    def own_functions(self) -> dict[str, OwnFunction]:
        """The pruning functions of layers that are not looked into, by the name of the channels that they cut."""
        return self.traced.own_functions()

    def name_of(self, module: Any) -> str:
        """The path of a layer or parameter. Raises ``ValueError``, as Torch-Pruning does, for one of another model."""
        return self.nodes.name_of(module)

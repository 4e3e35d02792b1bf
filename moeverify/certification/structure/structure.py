"""Structure of the base: its MoE layers, coupling classes and expert axes, without any weights."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from moeverify.certification.structure.axes import Axis, ExpertAxis, expert_axes
from moeverify.checks.evidence.router_tensors import with_router_axes
from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.couplings import trace_couplings
from moeverify.models.folder.skeleton import Skeleton
from moeverify.models.roles import FoundRoles, Roles, find_roles
from moeverify.models.sources import quiet_transformers

_SHORT, _LONG = (2, 32), (2, 256)


class Slot(NamedTuple):
    """Part of one dimension that a coupling class holds: ``positions`` ``[units, positions per unit]``."""

    number: int
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Structure:
    """``classes`` are the coupling classes with their roles; ``untouched`` parameters the traced forward never used."""

    roles: FoundRoles
    classes: tuple[PruningClass, ...]
    axes: Mapping[Axis, ExpertAxis]
    untouched: tuple[str, ...]

    @cached_property
    def slots(self) -> dict[Axis, list[Slot]]:
        """The classes that hold positions of each dimension."""
        result: dict[Axis, list[Slot]] = defaultdict(list)
        for number, item in enumerate(self.classes):
            for member in item.coupling.members:
                result[member.parameter, member.dim].append(Slot(number, member.positions))
        return dict(result)

    def moe_layer(self, item: PruningClass) -> int | None:
        """The number of the MoE layer whose fused experts each have channels of their own in a class."""
        if not item.experts:
            return None
        return next((n for n, layer in enumerate(self.roles.layers) if layer.container == item.where), None)


def structure_of(skeleton: Skeleton, rules: Roles | None = None) -> Structure:
    """Trace the base without weights; ``rules`` name its experts. Raises ``TraceError`` if its forward fails."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        roles = find_roles(skeleton.model, rules)
        couplings = trace_couplings(skeleton.model, _tokens(_SHORT), roles=roles)
        if couplings.trace.untouched:  # some layers run on longer inputs only
            couplings = trace_couplings(skeleton.model, _tokens(_LONG), roles=roles)
        roles = with_router_axes(skeleton.model, roles, couplings)
        classes = classify(skeleton.model, couplings.classes, roles, couplings)
        axes = expert_axes(skeleton, roles)
    return Structure(roles, classes, axes, tuple(couplings.trace.untouched))


def _tokens(shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.zeros(shape, dtype=torch.long)}

"""From scores to a plan that removes whole experts: first the experts that stay, then the positions of every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from moeverify.base.entries import EntryPath
from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.models.roles import FoundRoles, MoELayer
from moeverify.models.skeleton import has_config
from moeverify.pruning.experts.axes import CountedLayer
from moeverify.pruning.experts.by_configuration import by_configuration
from moeverify.pruning.experts.by_roles import by_roles
from moeverify.pruning.experts.topology import Topology, topology_of, watch_choices
from moeverify.pruning.plan.expert_cut import ExpertCut
from moeverify.pruning.plan.plan import Plan

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class ExpertLayout:
    """All MoE layers of a model: what counts their experts, and which numbers are legal, by layer name."""

    layers: tuple[CountedLayer, ...]
    topologies: Mapping[str, Topology]

    def linked(self) -> list[list[CountedLayer]]:
        """Layers that share an entry of the configuration: they keep equal numbers of experts."""
        groups: list[list[CountedLayer]] = []
        for layer in self.layers:
            mine = [g for g in groups if any(set(layer.entries) & set(other.entries) for other in g)]
            groups = [g for g in groups if g not in mine] + [[*(x for g in mine for x in g), layer]]
        return groups


def expert_layout(model: nn.Module, roles: FoundRoles, example: Example) -> ExpertLayout:
    """The layout of a model's experts; nothing is changed.

    Raises ``PruningRefused`` for a model without MoE layers or with something that is not understood.
    """
    if not roles.layers:
        raise PruningRefused(_without_layers(model, roles))
    for layer in roles.layers:
        _refuse_repeated(model, layer)
    layers = by_configuration(model, roles) if has_config(model) else by_roles(model, roles)
    choices = watch_choices(model, example)
    return ExpertLayout(layers, {c.layer.name: topology_of(model, c, choices) for c in layers})


def _refuse_repeated(model: nn.Module, layer: MoELayer) -> None:
    """Raises ``PruningRefused`` where a list holds one expert under two numbers: its rows of the router are several."""
    names: dict[int, str] = {}
    for name, entry in model.get_submodule(layer.container)._modules.items() if layer.layout == "listed" else ():
        if (first := names.setdefault(id(entry), name)) != name:
            raise PruningRefused(
                f"{layer.container} holds one module as its experts {first} and {name}, which cannot be told apart; "
                "give each a module of its own, or leave whole experts out (ratios without `experts`)"
            )


def _without_layers(model: nn.Module, roles: FoundRoles) -> str:
    """Why no experts can be removed from a model without known MoE layers. Weights of experts are parameters."""
    named = [path for path in roles.unrecognised if path in dict(model.named_modules())]
    held = [(f"{path}.{name}", b) for path in named for name, b in model.get_submodule(path).named_buffers()]
    stacks = [name for name, buffer in held if buffer.dim() > 2]
    if stacks:
        return (
            f"{stacks[0]} is a stack of weights in a buffer, and experts are known by their parameters; make it a "
            "parameter, dequantised if it holds whole numbers, and remove experts before you quantise"
        )
    return (
        "the model has no MoE layer that is known, so it has no experts to remove; name its experts with "
        "--experts-pattern (roles=mv.Roles(...) in Python)"
    )


def choose(scores: torch.Tensor, kept: int, topology: Topology) -> np.ndarray:
    """The best experts, ascending, as many out of each group; of equal scores the first.

    Raises ``PruningRefused`` for scores that are no numbers.
    """
    if not bool(scores.isfinite().all()):
        raise PruningRefused("the scores of the experts are not all finite; more calibration data may help")
    each = topology.count // topology.groups
    chosen: list[np.ndarray] = []
    for group in scores.double().reshape(topology.groups, each):
        best = torch.sort(group, descending=True, stable=True).indices[: kept // topology.groups]
        chosen.append(best.sort().values.numpy() + len(chosen) * each)
    return np.concatenate(chosen).astype(np.int64)


def expert_cuts(layout: ExpertLayout, kept: Mapping[str, int], scores: Scores) -> tuple[ExpertCut, ...]:
    """The experts that stay in each layer that loses some."""
    cuts = []
    for counted in layout.layers:
        layer = counted.layer
        if kept[layer.name] < counted.count:
            chosen = choose(scores[layer.name], kept[layer.name], layout.topologies[layer.name])
            cuts.append(
                ExpertCut(
                    layer.name,
                    layer.container,
                    counted.count,
                    chosen,
                    counted.children,
                    counted.tables,
                    counted.attributes,
                )
            )
    return tuple(cuts)


def with_experts(plan: Plan, layout: ExpertLayout, cuts: Sequence[ExpertCut]) -> Plan:
    """``plan`` with whole experts removed as well."""
    keep, sizes = dict(plan.keep), dict(plan.sizes)
    counted = {c.layer.name: c for c in layout.layers}
    for cut in cuts:
        for axis in counted[cut.layer].axes:
            key = (axis.parameter, axis.dim)
            positions = axis.positions(cut.kept, cut.before)
            keep[key] = np.intersect1d(keep[key], positions) if key in keep else positions
            sizes[key] = axis.size
    gone = {c.container + "." + c.children[e] + "." for c in cuts if c.children for e in c.removed}
    keep = {key: kept for key, kept in keep.items() if not key[0].startswith(tuple(gone))} if gone else keep
    return replace(plan, keep=keep, sizes={key: sizes[key] for key in keep}, experts=tuple(cuts))


def new_counts(layout: ExpertLayout, cuts: Sequence[ExpertCut]) -> dict[EntryPath, int]:
    """The configuration's entries for the new numbers of experts."""
    after = {cut.layer: cut.after for cut in cuts}
    return {path: after[c.layer.name] for c in layout.layers if c.layer.name in after for path in c.entries}

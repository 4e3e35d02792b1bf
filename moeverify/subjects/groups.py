"""Groups of a Torch-Pruning dependency graph in our own words, so that they can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from moeverify.coupling.classify import PruningClass, classify
from moeverify.coupling.solving.solve import CouplingClass, Member
from moeverify.models.roles import Roles, find_roles


def classes_of(pruner: Any, model: nn.Module, roles: Roles | None = None) -> tuple[PruningClass, ...]:
    """All groups of a pruner, as classes whose units are the root's channels.

    A pruner of ours has them; of any other ``DG.get_all_groups`` is asked, with what the pruner ignores. A group whose
    members cannot be named is left out. ``roles`` name the experts.
    """
    if (classes := getattr(pruner.DG, "classes", None)) is not None:
        return tuple(classes)
    more = {
        key: getattr(pruner, key)
        for key in ("ignored_layers", "root_module_types")
        if getattr(pruner, key, None) is not None
    }
    names = {id(m): n for n, m in model.named_modules()} | {id(p): n for n, p in model.named_parameters()}
    couplings = [
        c for group in pruner.DG.get_all_groups(**more) if (c := _class_of(group, pruner.DG, names)) is not None
    ]
    found = find_roles(model, roles)
    # A group of Torch-Pruning removes the same channels from every fused expert.
    return tuple(replace(c, experts=0, in_turn=frozenset()) for c in classify(model, couplings, found))


def _class_of(group: Any, graph: Any, names: dict[int, str]) -> CouplingClass | None:
    members: dict[tuple[str, int], Member] = {}
    for item in group:
        dep, idxs = item[0], item[1]
        site = _site(dep, graph, names)
        if site is None:
            continue
        roots = getattr(item, "root_idxs", None) or list(range(len(idxs)))
        positions = _by_unit(idxs, roots)
        if site in members:
            positions = np.concatenate([members[site].positions, positions], axis=1)
        for place in (site, *_bias(dep, site)):
            members[place] = Member(place[0], place[1], positions)
    units = {m.positions.shape[0] for m in members.values()}
    return CouplingClass(tuple(members.values())) if len(units) == 1 else None


def _site(dep: Any, graph: Any, names: dict[int, str]) -> tuple[str, int] | None:
    """Parameter and dimension that a dependency's handler cuts; a bias goes with its weight."""
    module = dep.target.module
    name = names.get(id(module))
    if name is None:
        return None
    if isinstance(module, nn.Parameter):
        return name, int(getattr(dep.target, "pruning_dim", 0) or 0)
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    is_output = graph.is_out_channel_pruning_fn(dep.handler)
    if isinstance(module, nn.Embedding):
        return f"{name}.weight", 1
    return f"{name}.weight", 0 if is_output or weight.dim() == 1 else 1


def _bias(dep: Any, site: tuple[str, int]) -> list[tuple[str, int]]:
    """The bias that a layer's output handler cuts along with its weight."""
    name, dim = site
    has_bias = isinstance(getattr(dep.target.module, "bias", None), nn.Parameter)
    return [(name.removesuffix("weight") + "bias", 0)] if has_bias and dim == 0 and name.endswith(".weight") else []


def _by_unit(idxs: Iterable[int], roots: Iterable[int]) -> np.ndarray:
    """``[units, positions per unit]``; a unit with fewer positions than another repeats its last one."""
    units: dict[int, list[int]] = {}
    for position, root in zip(idxs, roots, strict=True):
        units.setdefault(int(root), []).append(int(position))
    most = max(map(len, units.values()), default=0)
    return np.array([p + p[-1:] * (most - len(p)) for _, p in sorted(units.items())], dtype=np.int64).reshape(-1, most)

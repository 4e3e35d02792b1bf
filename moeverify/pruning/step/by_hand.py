"""Pruning of one layer's channels by hand, with the configuration in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch_pruning.dependency import Group

from moeverify.errors import PruningRefused
from moeverify.models.forward import Example
from moeverify.pruning.graph.graph import MoEDependencyGraph
from moeverify.pruning.step.afterwards import catch_up, refuse_inexpressible
from moeverify.pruning.step.prepare import probe_of


def prune_width(
    graph: MoEDependencyGraph,
    example: Example,
    importance: Callable[[Group], torch.Tensor | None],
    layer: nn.Module,
    pruning_fn: Callable,
    wanted: float | Sequence[int],
) -> None:
    """Prune a share of a layer's channels (the least important ones), or the given ones.

    Raises ``PruningRefused``, before anything is changed, if the configuration cannot express the result.
    """
    probe = probe_of(graph)
    if isinstance(wanted, float):
        place = graph.place_of(layer, pruning_fn)
        count = graph.live.size(place)
        scores = importance(graph.get_pruning_group(layer, pruning_fn, list(range(count))))
        if scores is None:
            raise PruningRefused(f"the importance gives no score for {place[0]}; name the channels instead")
        chosen = torch.argsort(scores[:count])[: int(count * wanted)].tolist()
    else:
        chosen = list(wanted)
    group = graph.get_pruning_group(layer, pruning_fn, chosen)
    if probe is not None:
        refuse_inexpressible(probe, group.removed())
    group.prune()
    if probe is not None:
        catch_up(graph.model, probe, example, graph.found_roles)

"""Without a configuration to rebuild from, a copy is pruned first: sizes hard-coded in ``forward`` show."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from moeverify.errors import PruningRefused
from moeverify.pruning.apply import apply_plan
from moeverify.pruning.example import Example
from moeverify.pruning.heads import write_head_counts
from moeverify.pruning.plan import Plan

if TYPE_CHECKING:
    from moeverify.pruning.graph import MoEDependencyGraph


def rehearse(
    graph: MoEDependencyGraph,
    plan: Plan,
    heads: Mapping[str, tuple[int, int]],
    example: Example,
) -> None:
    """Carry out ``plan`` on a copy of the graph's model and run it. Raises ``PruningRefused`` if that fails."""
    model = graph.model
    rehearsal = copy.deepcopy(model).eval()
    own = {
        name: (rehearsal.get_submodule(graph.name_of(layer)), function)
        for name, (layer, function) in graph.nodes.own_functions().items()
    }
    apply_plan(rehearsal, plan, own)
    write_head_counts(rehearsal, heads)
    try:
        with torch.no_grad():
            example(rehearsal)
    except Exception as error:
        raise PruningRefused(
            f"the model does not run with the pruned sizes ({type(error).__name__}: {error}); its forward has a "
            "size written into it: leave that role out with `ratios`"
        ) from error

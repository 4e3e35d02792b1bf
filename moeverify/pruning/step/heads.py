"""Head counts that a user gave by layer, and the attributes that repeat them where no configuration does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING

from torch import nn

from moeverify.pruning.attributes.change import AttributeChange, set_attributes
from moeverify.pruning.attributes.slots import Slot
from moeverify.pruning.plan.plan import Plan

if TYPE_CHECKING:
    from moeverify.pruning.graph.graph import MoEDependencyGraph


def head_counts_after(
    num_heads: Mapping[nn.Module, int], plan: Plan, graph: MoEDependencyGraph
) -> dict[str, tuple[int, int]]:
    """Head counts, before and after ``plan``, of the layers that lose heads by it; by path.

    Where the user gave no count, a layer has as many heads as its class has units.
    """
    counts = {}
    for cut in plan.cuts:
        if cut.pruning_class.role == "heads":
            for layer in graph.nodes.output_layers(cut.pruning_class.coupling):
                old = num_heads.get(layer, cut.before)
                counts[graph.name_of(layer)] = (old, old * cut.after // cut.before)
    return counts


def output_sizes(layers: Iterable[nn.Module], graph: MoEDependencyGraph) -> dict[nn.Module, int]:
    """Present number of outputs of each layer."""
    return {layer: graph.live.size(graph.nodes.end(layer).place) for layer in layers}


def counts_now(
    num_heads: Mapping[nn.Module, int], sizes: Mapping[nn.Module, int], graph: MoEDependencyGraph
) -> dict[str, tuple[int, int]]:
    """Head counts before and now of the layers that lost outputs since they had ``sizes``; by path."""
    now = output_sizes(sizes, graph)
    return {
        graph.name_of(layer): (num_heads[layer], num_heads[layer] * now[layer] // size)
        for layer, size in sizes.items()
        if now[layer] != size
    }


def head_count_changes(model: nn.Module, counts: Mapping[str, tuple[int, int]]) -> list[AttributeChange]:
    """Attributes that repeat head counts; ``counts`` gives the old and new one by the path of a projection.

    An integer attribute with ``head`` in its name and the old value, on the module that holds the projection, is a
    copy of it.
    """
    changes: dict[AttributeChange, None] = {}
    for path, (old, new) in counts.items():
        holder = path.rpartition(".")[0]
        for name, value in vars(model.get_submodule(holder)).items():
            if "head" in name and "dim" not in name and type(value) is int and value == old:
                changes[AttributeChange(Slot(holder, (name,)), old, new)] = None
    return list(changes)


def note_head_counts(
    num_heads: MutableMapping[nn.Module, int], model: nn.Module, counts: Mapping[str, tuple[int, int]]
) -> None:
    """Put the new counts of ``counts``, by path, into a user's ``num_heads``, for the layers that it names."""
    given = {model.get_submodule(path): new for path, (_, new) in counts.items()}
    num_heads.update({layer: new for layer, new in given.items() if layer in num_heads})


def write_head_counts(model: nn.Module, counts: Mapping[str, tuple[int, int]]) -> None:
    """Bring head counts in step in a model without configuration."""
    set_attributes(model, head_count_changes(model, counts))

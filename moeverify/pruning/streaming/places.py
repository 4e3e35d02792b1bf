"""Where the experts of a stack are stored, so that each can be written as soon as it is cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moeverify.pruning.streaming.layout import Group, Layout


@dataclass(frozen=True)
class Place:
    """Where a part of one expert is stored: as ``row`` of a tensor, or as a whole tensor.

    The part is one of ``count`` equal ones along ``dim`` of the expert's matrix: that with this ``number``.
    """

    name: str
    row: int | None = None
    count: int = 1
    number: int = 0
    dim: int = 0

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The part of an expert's values that is stored here."""
        return values if self.count == 1 else values.chunk(self.count, self.dim)[self.number]


def places_of(layout: Layout, group: Group, experts: int) -> list[list[Place]] | None:
    """Where each expert of a stack is stored; ``None`` if the stack can only be converted as a whole.

    Known are stacks that are stored as they are, and those that are divided into experts, and each expert into equal
    parts. A small stack whose values are their own positions is converted, and shows where each part goes.
    """
    if len(group.names) != 1:
        return None
    (stack,) = group.names
    if group.converter is None:
        (name,) = layout.written(group, {stack: torch.empty(0)})
        return [[Place(name, row)] for row in range(experts)]
    *before, divide = group.converter.operations
    if type(divide).__name__ != "SplitModulelist" or divide.dim != 0:
        return None
    count, dim = 1, 0
    if before:
        if [type(operation).__name__ for operation in before] != ["Chunk"] or before[0].dim not in (1, 2):
            return None
        if before[0].num_shards_attribute is not None:
            return None
        count, dim = len(group.converter.target_patterns), before[0].dim - 1
    small = torch.arange(experts * count).view((experts, count, 1) if dim == 0 else (experts, 1, count))
    result: list[list[Place]] = [[] for _ in range(experts)]
    for name, values in layout.written(group, {stack: small}).items():
        expert, number = divmod(int(values), count)
        result[expert].append(Place(name, None, count, number, dim))
    return result

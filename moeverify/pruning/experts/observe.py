"""One pass over calibration data: the statistics of all MoE layers, with the model's own routing weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import Example
from moeverify.pruning.choice.criteria.registry import LayerStatistics
from moeverify.pruning.experts.axes import CountedLayer
from moeverify.pruning.experts.sums import REMEDY, Sums
from moeverify.pruning.experts.watch_container import watch_container
from moeverify.pruning.experts.watch_rows import watch_list, watch_sorted_rows

Run = Callable[[Sequence[Callable[[], Any]]], None]


def one_by_one(calls: Sequence[Callable[[], Any]]) -> None:
    """Run forwards one after the other."""
    for call in calls:
        call()


@torch.no_grad()
def observe(
    model: nn.Module,
    counted: Iterable[CountedLayer],
    batches: Iterable[Any],
    example: Example,
    run: Run = one_by_one,
) -> dict[str, LayerStatistics]:
    """Statistics by layer name after one pass over ``batches``; ``run`` runs their forwards.

    Raises ``PruningRefused`` for a layer that calls its experts in a way that is not understood, ``UsageError`` without
    a batch.
    """
    counted = tuple(counted)
    sums = {c.layer.name: Sums(c.count) for c in counted}
    training = [module for module in model.modules() if module.training]
    model.eval()
    calls: dict[str, int] = dict.fromkeys(sums, 0)
    try:
        with contextlib.ExitStack() as stack:
            for c in counted:
                stack.enter_context(_watch_of(model, c)(model, c, sums[c.layer.name], calls))
            forwards = [partial(example, model, batch) for batch in batches]
            run(forwards)
    finally:
        for module in training:
            module.training = True
    if not forwards:
        raise UsageError("the calibration data holds no batch; give at least one sample")
    if silent := [name for name, count in calls.items() if not count]:
        raise PruningRefused(f"the experts of {silent[0]} were never called on the calibration data{REMEDY}")
    return {name: one.result() for name, one in sums.items()}


def _watch_of(model: nn.Module, counted: CountedLayer) -> Callable:
    """Watch of a layer: on its list, on the modules that hold its stacks, or on its container."""
    layer = counted.layer
    if layer.layout == "listed":
        return watch_list
    apart = layer.layout == "fused" and layer.container not in layer.holders and len(layer.holders) > 1
    return watch_sorted_rows if apart else watch_container

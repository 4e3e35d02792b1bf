"""Choices of routers while a model runs: the number of scores, of groups, and of chosen experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.models.forward import module_paths
from moeverify.models.roles import FoundRoles, MoELayer

_TOPK = (torch.topk, torch.Tensor.topk)


@dataclass(frozen=True)
class Router:
    """The choices of one MoE layer: ``top_k`` of ``scores``, from ``chosen_groups`` of ``groups``.

    ``group_scores`` experts score a group. Without groups all three are one. ``grouped``: whether a choice among groups
    was seen. A choice among groups of one expert looks like one among experts.
    """

    scores: int
    top_k: int
    groups: int = 1
    chosen_groups: int = 1
    group_scores: int = 1
    grouped: bool = False


class _Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.calls: dict[tuple[str, tuple[int, ...], int], None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TOPK:
            given = dict(zip(("input", "k", "dim"), args, strict=False)) | dict(kwargs or {})
            scores, dim = given["input"], given.get("dim", -1)
            if scores.dim() > 1 and dim in (-1, scores.dim() - 1):
                where = self.running[-1] if self.running else ""
                self.calls[where, tuple(scores.shape[1:]), int(given["k"])] = None
        return result


@torch.no_grad()
def routers_of(model: nn.Module, roles: FoundRoles, run: Callable[[nn.Module], Any]) -> dict[str, Router]:
    """The routers of all MoE layers by layer name; a layer that chooses nothing by ``topk`` is left out."""
    seen = _Seen()
    with module_paths(model, seen.running), seen:
        run(model)
    result = {}
    for layer in roles.layers:
        calls = _of_layer(layer, seen)
        if router := _router(calls, len(layer.experts)):
            result[layer.name] = router
    return result


def _of_layer(layer: MoELayer, seen: _Seen) -> list[tuple[tuple[int, ...], int]]:
    """Sizes (without the first) and ``k`` of the choices of a layer's routers, or of its block if they make none."""
    for places in (layer.routers, (layer.name, layer.container)):
        calls = [
            (sizes, k) for where, sizes, k in seen.calls if any(where == p or where.startswith(p + ".") for p in places)
        ]
        if calls:
            return calls
    return []


def _router(calls: list[tuple[tuple[int, ...], int]], experts: int) -> Router | None:
    """The last choice is that of experts; one before it may be of groups, and one before that inside of groups."""
    final = [(sizes, k) for sizes, k in calls if sizes[-1] >= experts]
    if not final:
        return None
    (*_, scores), top_k = final[-1]
    before = [call for call in calls[: calls.index(final[-1])] if call[0][-2:] != (scores, 1)]  # one expert a group
    if before and (outer := before[-1][0][-1]) < scores:  # the choice right before is among groups
        inside = [n for sizes, n in before[:-1] if len(sizes) > 1 and sizes[-2] == outer]
        return Router(scores, top_k, outer, before[-1][1], max(inside, default=1), grouped=True)
    return Router(scores, top_k)

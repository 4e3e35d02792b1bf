"""Places that count the experts of an MoE layer: dimensions, lists of modules, tables of ids, entries, sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from moeverify.base.entries import EntryPath
from moeverify.errors import PruningRefused
from moeverify.models.roles import MoELayer

# Names under which architectures keep how many experts a token goes to.
TOP_K = ("top_k", "num_experts_per_tok", "moe_top_k", "moe_topk", "moe_k", "topk", "k")
_TABLE_NAME = re.compile(r"expert|eid|tid|route|hash", re.IGNORECASE)


@dataclass(frozen=True)
class ExpertAxis:
    """A dimension that counts experts: ``repeats`` positions for each, one expert after the other.

    A dimension may go on behind the experts with classes that have no weights (experts that compute nothing).
    """

    parameter: str
    dim: int
    size: int
    repeats: int = 1

    def positions(self, kept: np.ndarray, count: int) -> np.ndarray:
        """Positions that stay when the experts ``kept`` of ``count`` do.

        >>> ExpertAxis("classifier.weight", 0, 5).positions(np.array([0, 2]), 4).tolist()
        [0, 2, 4]
        """
        own = (kept[:, None] * self.repeats + np.arange(self.repeats)).ravel()
        return np.concatenate([own, np.arange(count * self.repeats, self.size)])


@dataclass(frozen=True)
class CountedLayer:
    """An MoE layer with everything that counts its experts.

    ``children``: names of listed experts in their container. ``tables``: integer tensors whose values are expert ids.
    ``entries``: the configuration's entries for the count. ``attributes``: sizes ``(module, name)`` of a model without
    configuration.
    """

    layer: MoELayer
    axes: tuple[ExpertAxis, ...]
    children: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    entries: tuple[EntryPath, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        """Routed experts of the layer."""
        return len(self.layer.experts)

    @property
    def companions(self) -> tuple[str, ...]:
        """Tensors outside the experts themselves that follow the count: router rows, biases, scales, tables."""
        own = {*self.layer.stacks}
        return (*dict.fromkeys(a.parameter for a in self.axes if a.parameter not in own), *self.tables)

    def concerns(self, tensor: str) -> bool:
        """Whether a tensor lies in an expert or a router, or follows the count of experts."""
        if tensor in self.layer.stacks or tensor in self.companions or self.layer.owner(tensor) is not None:
            return True
        return any(tensor.startswith(f"{router}.") for router in self.layer.routers)


def listed_children(layer: MoELayer) -> tuple[str, ...]:
    """Names of listed experts inside their container; empty for another layout."""
    if layer.layout != "listed":
        return ()
    return tuple(expert.removeprefix(f"{layer.container}.") for expert in layer.experts)


def id_tables(model: nn.Module, layer: MoELayer, axes: Iterable[ExpertAxis]) -> tuple[str, ...]:
    """Integer tensors of an MoE layer whose values are expert ids: they are renumbered, not sliced.

    Raises ``PruningRefused`` for one whose values might be ids without other evidence.
    """
    count = len(layer.experts)
    cut = {axis.parameter for axis in axes}
    tables = []
    for path in dict.fromkeys((layer.name, *layer.routers)):
        block = model.get_submodule(path)
        top_k = {vars(m).get(name) for m in block.modules() for name in TOP_K}
        for name, tensor in (*block.named_parameters(prefix=path), *block.named_buffers(prefix=path)):
            if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool or not tensor.dim():
                continue
            if any(name.startswith(f"{other}.") for other in (*layer.shared_experts, *layer.holders)):
                continue
            if tensor.device.type == "meta":
                raise PruningRefused(f"{name} may hold expert ids, and a model without weights does not show them")
            if not tensor.numel() or int(tensor.min()) < 0 or int(tensor.max()) >= count:
                continue
            if name in cut:
                if bool(tensor.any()):
                    raise PruningRefused(
                        f"{name} counts experts by its size, and its values may be expert ids as well; leave whole "
                        "experts out (ratios without `experts`)"
                    )
                continue
            if tensor.shape[-1] in top_k or _TABLE_NAME.search(name.rpartition(".")[2]):
                tables.append(name)
            elif tensor.numel() > 1:
                raise PruningRefused(
                    f"the values of {name} {list(tensor.shape)} may be expert ids, but it has no column for each of "
                    "the experts of a token; leave whole experts out (ratios without `experts`)"
                )
    return tuple(dict.fromkeys(tables))

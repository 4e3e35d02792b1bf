"""Legal numbers of experts for a router: groups of equal size, enough of them for every choice it makes.

The choices are seen while the model runs: every ``topk`` over as many scores as there are experts, over groups, and
inside of groups. Attributes of the router are read where a run shows nothing (a model without weights).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.errors import PruningRefused, TraceError
from moeverify.models.folder.stored_tensor import StoredTensor
from moeverify.models.forward import Example, eager_attention, module_paths
from moeverify.models.roles import MoELayer
from moeverify.models.state import same_start
from moeverify.pruning.constants.recorder import record_forward
from moeverify.pruning.experts.axes import TOP_K, CountedLayer

GROUPS = ("num_group", "n_group", "num_expert_group", "n_groups", "num_expert_groups")
CHOSEN_GROUPS = ("topk_group", "topk_groups", "num_limited_groups")


@dataclass(frozen=True)
class Topology:
    """The rules of one router: ``count`` experts in ``groups`` of equal size.

    ``top_k`` experts are chosen, out of ``chosen_groups`` groups, each scored by its best ``group_scores`` experts.
    """

    count: int
    top_k: int = 1
    groups: int = 1
    chosen_groups: int = 1
    group_scores: int = 1

    def problem(self, count: int) -> str:
        """The rule that a number of experts breaks; empty if it is legal."""
        if count < self.top_k:
            return f"each token goes to {self.top_k} experts"
        if count < 2:
            return "a router with one expert has nothing to choose"
        if count % self.groups:
            return f"{self.groups} groups of equal size cannot hold {count}"
        each = count // self.groups
        if each < self.group_scores:
            return f"each of the {self.groups} groups is scored by its best {self.group_scores} experts"
        if self.chosen_groups * each < self.top_k:
            return f"{self.top_k} experts are chosen out of {self.chosen_groups} groups, which would have {each} each"
        return ""

    def legal(self) -> list[int]:
        """Every legal number of experts, up to the present one."""
        return [n for n in range(1, self.count + 1) if not self.problem(n)]

    def check(self, count: int, where: str) -> None:
        """Raises ``PruningRefused`` with the nearest legal numbers unless ``count`` is legal."""
        if not (problem := self.problem(count)):
            return
        near = sorted(sorted(self.legal(), key=lambda n: (abs(n - count), -n))[:2])
        numbers = " or ".join(f"{n} (a ratio of {round(1 - n / self.count, 4):g})" for n in near)
        raise PruningRefused(
            f"{where} cannot keep {count} of {self.count} experts: {problem}; the nearest legal numbers are {numbers}"
        )


@dataclass(frozen=True)
class Choice:
    """One call of ``topk``, or of ``argmax`` with ``k`` = 1.

    ``module``: path of the module that ran it. ``sizes``: shape of its scores without the first dimension. ``k``:
    number of entries chosen.
    """

    module: str
    sizes: tuple[int, ...]
    k: int


_TOPK = (torch.topk, torch.Tensor.topk)
_CHOICES = (*_TOPK, torch.argmax, torch.Tensor.argmax)


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.seen: set[Choice] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _CHOICES:
            scores = args[0] if args else kwargs["input"]
            rest = args[1:] if func in _TOPK else (1, *args[1:])  # an argmax chooses one
            k = rest[0] if rest else kwargs["k"]
            dim = rest[1] if len(rest) > 1 else kwargs.get("dim", -1)
            if dim in (-1, scores.dim() - 1):
                where = self.running[-1] if self.running else ""
                self.seen.add(Choice(where, tuple(scores.shape[1:] if scores.dim() > 1 else scores.shape), int(k)))
        return func(*args, **kwargs)


@torch.no_grad()
def watch_choices(model: nn.Module, example: Example) -> frozenset[Choice]:
    """Every ``topk`` of one forward of ``model``; empty for a model without weights or one that does not run."""
    if any(p.device.type == "meta" for p in model.parameters()):
        return frozenset()
    watch = _Watch()
    if any(isinstance(p, StoredTensor) for p in model.parameters()):
        with contextlib.suppress(TraceError):  # the weights would have to be read, and choices have the same sizes
            with module_paths(model, watch.running), watch:
                record_forward(model, example)
            return frozenset(watch.seen)
        watch = _Watch()
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with same_start(model), eager_attention(model), module_paths(model, watch.running), watch:
            example(model)  # a forward may count tokens in buffers
    finally:
        for module in training:
            module.training = True
    return frozenset(watch.seen)


def topology_of(model: nn.Module, counted: CountedLayer, choices: frozenset[Choice]) -> Topology:
    """The rules of one MoE layer, from what was seen and from the attributes of block and routers."""
    layer, count = counted.layer, counted.count
    mine = _choices_of(layer, choices)
    groups, chosen, scored = _groups(model, layer, count, mine)
    sizes = {a.size for a in counted.axes if a.parameter not in layer.stacks and a.repeats == 1} | {count}
    top_k = [c.k for c in mine if c.sizes[-1] in sizes and c.sizes[-2:] != (groups, count // groups)]
    tables = [attrgetter(name)(model) for name in counted.tables]
    top_k += [table.shape[-1] for table in tables if table.dim() > 1]
    top_k = top_k or _attributes(model, layer, TOP_K)
    return Topology(count, max(top_k, default=1), groups, chosen, scored)


def _groups(model: nn.Module, layer: MoELayer, count: int, mine: list[Choice]) -> tuple[int, int, int]:
    """Number of groups, how many are chosen, and how many experts score one."""
    number_of_groups = max(_attributes(model, layer, GROUPS), default=0)
    for outer in [c.sizes[-2] for c in mine if len(c.sizes) > 1 and c.sizes[-2] * c.sizes[-1] == count]:
        over = [c.k for c in mine if c.sizes[-1] == outer]
        if outer in (number_of_groups, 0) or (not number_of_groups and outer > 1 and over):
            inner = [c.k for c in mine if c.sizes[-2:] == (outer, count // outer)]
            return outer, max(over, default=outer), max(inner)
    over = [c.k for c in mine if number_of_groups and c.sizes[-1] == number_of_groups]
    if not number_of_groups or (mine and not over):  # nothing chooses among groups
        return 1, 1, 1
    chosen = max(_attributes(model, layer, CHOSEN_GROUPS), default=number_of_groups)
    return number_of_groups, max(over, default=chosen), 1 if mine else 2  # unseen: as strict as any known router


def _choices_of(layer: MoELayer, choices: frozenset[Choice]) -> list[Choice]:
    """Choices made by a layer's routers; those of the whole block if its routers make none."""

    def inside(paths: tuple[str, ...]) -> list[Choice]:
        return [c for c in choices if any(c.module == p or c.module.startswith(f"{p}.") for p in paths)]

    return inside(layer.routers) or inside((layer.name, layer.container))


def _attributes(model: nn.Module, layer: MoELayer, names: tuple[str, ...]) -> list[int]:
    values = (vars(model.get_submodule(p)).get(n) for p in (layer.name, *layer.routers) for n in names)
    return [value for value in values if type(value) is int and value > 0]

"""Importance that includes routing: how much a channel changes the output of its MoE layer on calibration text.

A channel ``c`` of expert ``e`` adds ``g_e(t) h_c(t) d_c`` to the layer's output for every token ``t`` that the router
sends there. The factors are the routing weight, the channel's activation, and its column of the down projection. The
score is the root of the sum of squares of that. It grows with how often and how strongly the router uses the expert.
REAP (Lasby et al. 2025, arXiv:2510.13999) scores a whole expert this way, by routing weight times norm of its output.
MoE-Pruner (Xie et al. 2024, arXiv:2410.12013) scores single weights by the router-weighted ``|W| |x|``. It builds on
Wanda (Sun et al. 2023, arXiv:2306.11695).

Activations inside fused experts are not visible from outside, and every architecture computes them in its own way. So
the sum over tokens is estimated from gradients, as Hutchinson (1990) estimates a trace. For random signs ``r`` the
gradient of ``<r, output>`` with respect to ``d[o, c]`` is the sum over tokens of ``r[t, o] g(t) h_c(t)``. Its mean
square is the sum of squares wanted. One backward pass through one layer serves all its experts. The channel's gate and
up weights are scored by the same product, weight times gradient, and the squares are added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.layouts import roles_of
from moeverify.errors import UsageError
from moeverify.models.forward import call_model
from moeverify.models.roles import MoELayer, Roles


class RoutingImportance:
    """Scores channels of routed and shared experts by their routed contribution; leaves the rest to ``base``.

    ``calibration`` holds batches as the model takes them, such as ``{"input_ids": ids}``; text of the kind that the
    pruned model is for. ``probes`` is the number of random directions for each batch: the relative error of a squared
    score is about ``sqrt(2 / (probes * batches * hidden size))``. ``base`` is any Torch-Pruning importance, by default
    ``GroupMagnitudeImportance(p=2, group_reduction="mean")``.

    Example::

        importance = RoutingImportance(model, [{"input_ids": ids}])
        MoEPruner(model, {"input_ids": ids}, importance=importance, pruning_ratio=0.5).step()

    Raises ``UsageError`` if the model has no MoE layer or no calibration batch is given.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[Any],
        base: Callable | None = None,
        *,
        probes: int = 4,
        seed: int = 0,
        roles: Roles | None = None,
    ) -> None:
        self.base = base or tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
        self.probes = probes
        batches = iter(calibration)
        if (first := next(batches, None)) is None:
            raise UsageError("no calibration batch was given; pass at least one, such as {'input_ids': ids}")
        layers = roles_of(model, first, roles).layers
        if not layers:
            raise UsageError("the model has no MoE layer, so there is no routing to know; use another importance")
        # (parameter, dim) -> squared contribution [size], or [experts, size] for fused experts
        self._squares: dict[tuple[str, int], torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        handles = [model.get_submodule(layer.name).register_forward_hook(self._hook(model, layer)) for layer in layers]
        try:
            with torch.enable_grad(), evaluating(model):
                for batch in chain([first], batches):
                    call_model(model, batch, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, group: Any) -> torch.Tensor | None:
        """Scores of a Torch-Pruning group, by ``base``."""
        return self.base(group)

    def score_class(self, pruning_class: PruningClass) -> torch.Tensor | None:
        """Scores ``[units]``, or ``[experts, units]`` where each expert keeps its own; ``None`` for a class outside the
        experts.
        """
        if pruning_class.role not in ("routed_experts", "shared_experts"):
            return None
        total: torch.Tensor | float = 0.0
        for member in pruning_class.coupling.members:
            squares = self._squares.get((member.parameter, member.dim))
            if squares is None:
                continue
            if (member.parameter, member.dim) in pruning_class.in_turn:
                units = len(member.positions)
                mine = torch.tensor(member.positions).view(units, pruning_class.experts, -1).transpose(0, 1)
                total = total + squares[mine].sum(-1)
            else:
                total = total + squares[..., torch.tensor(member.positions)].sum(-1)
        return total.sqrt() if isinstance(total, torch.Tensor) else None

    def _hook(self, model: nn.Module, layer: MoELayer) -> Callable:
        prefixes = (layer.container, *layer.shared_experts)
        fused = layer.container if layer.fused else None
        names, parameters = zip(
            *((n, p) for n, p in model.named_parameters() if n.startswith(tuple(f"{x}." for x in prefixes))),
            strict=True,
        )

        def hook(module, args, output):
            leaves, form = tree_flatten(output)
            first = next(i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.is_floating_point())
            for probe in range(self.probes):
                signs = torch.randint(0, 2, leaves[first].shape, generator=self._generator) * 2 - 1
                gradients = torch.autograd.grad(
                    leaves[first],
                    parameters,
                    signs.to(leaves[first]),
                    retain_graph=probe + 1 < self.probes,
                    allow_unused=True,
                )
                for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                    if gradient is not None:
                        self._add(name, parameter, gradient, fused is not None and name.startswith(f"{fused}."))
            leaves = [x.detach() if isinstance(x, torch.Tensor) else x for x in leaves]
            return tree_unflatten(leaves, form)

        return hook

    def _add(self, name: str, parameter: nn.Parameter, gradient: torch.Tensor, stacked: bool) -> None:
        squares = (parameter.detach().float() * gradient.float()).square()
        for dim in range(int(stacked), parameter.dim()):
            others = [d for d in range(int(stacked), parameter.dim()) if d != dim]
            value = (squares.sum(others) if others else squares).cpu() / self.probes
            key = (name, dim)
            self._squares[key] = self._squares[key] + value if key in self._squares else value


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with every parameter requiring a gradient; put back as it was on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.eval()
    for parameter in frozen:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad_(False)

"""``camera``: the energy that a channel brings into its layer's output, on calibration data.

Source: CAMERA-P (Xu et al. 2025, arXiv:2508.02322; github.com/xuyuzhuang11/CAMERA). The score over all tokens is
norm(d)^2 * ((1 - l) * sum((g * a)^2) + l * max((g * a)^2)). ``a`` is the activation of the channel for a token
(act(gate) * up). ``g`` is the routing weight of its expert, ``d`` its column of the down projection. The authors run it
with l = 0.9. They rank the channels of all experts of a layer together and set the lowest to zero. Here channels are
removed, by default equally many from each expert.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from moeverify.coupling.classify import PruningClass
from moeverify.coupling.layouts import roles_of
from moeverify.errors import PruningRefused, UsageError
from moeverify.models.forward import call_model, static_experts
from moeverify.models.roles import Roles
from moeverify.pruning.choice.contractions import REMEDY, Energies, watch_products
from moeverify.pruning.choice.routing_importance import evaluating


class CameraImportance:
    """Scores channels of routed and shared experts by their energy on calibration data; the rest goes to ``base``.

    Args:
        model: The model that is to be pruned.
        calibration: Batches as the model takes them, such as ``{"input_ids": ids}``.
        base: Any Torch-Pruning importance; ``GroupMagnitudeImportance(p=2, group_reduction="mean")``.
        peak: Share of the largest token in the score, from 0 to 1; the rest goes to the sum over tokens.
        roles: Names of experts, routers and shared experts.

    Raises:
        UsageError: the model has no MoE layer, no batch is given, or ``peak`` is no share.

    Example::

        importance = mv.CameraImportance(model, [{"input_ids": ids}])
        mv.MoEPruner(model, {"input_ids": ids}, importance=importance, ratios={"hidden": 0}).step()

    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[Any],
        base: Callable | None = None,
        *,
        peak: float = 0.9,
        roles: Roles | None = None,
    ) -> None:
        if not 0 <= peak <= 1:
            raise UsageError(f"peak is the share of the largest token, from 0 to 1, not {peak!r}")
        self.base = base or tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
        self.peak = peak
        self._model = model
        batches = iter(calibration)
        if (first := next(batches, None)) is None:
            raise UsageError("no calibration batch was given; pass at least one, such as {'input_ids': ids}")
        layers = roles_of(model, first, roles).layers
        if not layers:
            raise UsageError("the model has no MoE layer, so there are no experts' channels to watch")
        self._energies = Energies()
        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(watch_products(model, layer, self._energies))
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(model))
            stack.enter_context(static_experts(model, "eager"))
            for batch in chain([first], batches):
                call_model(model, batch, use_cache=False)

    def __call__(self, group: Any) -> torch.Tensor | None:
        """Scores of a Torch-Pruning group, by ``base``."""
        return self.base(group)

    def score_class(self, pruning_class: PruningClass) -> torch.Tensor | None:
        """Scores ``[units]``, or ``[experts, units]`` where each expert keeps its own; ``None`` outside the experts.

        Raises ``PruningRefused`` for experts whose activations were not seen.
        """
        if pruning_class.role not in ("routed_experts", "shared_experts"):
            return None
        total: torch.Tensor | float = 0.0
        for member in pruning_class.coupling.members:
            scores = self._scores(member.parameter, member.dim)
            if scores is None:
                continue
            if (member.parameter, member.dim) in pruning_class.in_turn:
                mine = [pruning_class.of_expert(member, expert) for expert in range(pruning_class.experts)]
                total = total + torch.stack([scores[0][torch.tensor(positions)].sum(-1) for positions in mine])
            else:
                energies = scores[:, torch.tensor(member.positions)].sum(-1)
                total = total + (energies if pruning_class.experts else energies.sum(0))
        if not isinstance(total, torch.Tensor):
            raise PruningRefused(
                f"the activations of {pruning_class.where} were not seen: no expert ran, or it multiplies by its "
                f"weights in a way that is not understood{REMEDY}"
            )
        return total

    def _scores(self, name: str, dim: int) -> torch.Tensor | None:
        """Scores ``[experts, channels]`` of the input channels of a weight."""
        energy = self._energies.by_place.get((name, dim))
        if energy is None:
            return None
        weight = self._model.get_parameter(name).detach().double().cpu()
        stacked = weight.dim() == 3
        columns = weight.square().sum([d for d in range(int(stacked), weight.dim()) if d != dim])
        columns = columns if stacked else columns[None]
        return columns * ((1 - self.peak) * energy.total + self.peak * energy.largest)

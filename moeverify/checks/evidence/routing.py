"""Router logits and top-k choices, seen and changed while a model runs.

A reference for removed experts needs their selection scores at minus infinity, an expert that no token chooses needs
tokens sent to it, and a comparison is only fair where the choice of experts is not a near-tie. All three look at the
same two places: the linear map of a router, and ``topk``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from moeverify.checks.evidence.router_tensors import router_tensors
from moeverify.models.roles import FoundRoles

Change = Callable[[torch.Tensor], torch.Tensor]
TOPK = (torch.topk, torch.Tensor.topk)


class Routing(TorchFunctionMode):
    """While active, ``change[layer](logits)`` replaces a router's logits ``[..., experts]``.

    ``margin`` is the smallest distance seen between the last score chosen by a ``topk`` and the first one that was
    not, relative to the largest of these scores. Scores that are exactly equal (an indexer's, cut off at zero) do not
    count: the order in which ``topk`` takes them does not depend on rounding. ``seen`` names the layers whose logits
    passed by.
    """

    def __init__(
        self,
        model: nn.Module,
        roles: FoundRoles,
        change: Mapping[str, Change] | None = None,
    ) -> None:
        super().__init__()
        self.change = dict(change or {})
        self.margin = float("inf")
        self.seen: set[str] = set()
        self._layers: dict[int, str] = {}
        for layer in roles.layers:
            matrices = {name: t for name, t in router_tensors(model, layer).items() if t.dim() == 2}
            if matrices:
                # A router may have a second one, for its noise; the logits are those of the plainly named.
                self._layers[id(matrices[min(matrices, key=lambda n: (len(n), n))])] = layer.name

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is F.linear and (layer := self._layers.get(id(args[1] if len(args) > 1 else None))):
            self.seen.add(layer)
            return self.change[layer](result) if layer in self.change else result
        if func in TOPK:
            self._watch(args, kwargs or {})
        return result

    def _watch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scores = args[0] if args else kwargs["input"]
        k = args[1] if len(args) > 1 else kwargs["k"]
        dim = args[2] if len(args) > 2 else kwargs.get("dim", -1)
        if not scores.is_floating_point() or not 0 < k < scores.shape[dim]:
            return
        ranked = scores.detach().sort(dim=dim, descending=True).values.movedim(dim, -1)
        gap = ranked[..., k - 1] - ranked[..., k]
        size = ranked.masked_fill(~ranked.isfinite(), 0).abs().amax(-1)
        gap = (gap / size.clamp_min(1e-300))[gap.isfinite() & (gap > 0)]
        if gap.numel():
            self.margin = min(self.margin, float(gap.min()))


# What a forced choice gets, and at most any other: far apart for a softmax and for a sigmoid of each, even where
# scores of a group of experts are summed.
FORCED_LOGIT = 10.0


def towards(expert: int) -> Change:
    """Makes one expert the first choice of every token, with nearly all of the weight."""
    return lambda logits: _forced(logits, torch.full(logits.shape[:-1], expert, device=logits.device))


def evenly() -> Change:
    """Makes experts the first choice of tokens in turn, from call to call, as ``towards`` does."""
    begin = 0

    def change(logits: torch.Tensor) -> torch.Tensor:
        nonlocal begin
        count = logits.shape[:-1].numel()
        turn = torch.arange(begin, begin + count, device=logits.device) % logits.shape[-1]
        begin += count
        return _forced(logits, turn.view(logits.shape[:-1]))

    return change


def _forced(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """``logits [..., experts]`` in which those that ``chosen [...]`` names stand far above the rest."""
    others = logits - logits.amax(-1, keepdim=True) - FORCED_LOGIT
    return others.scatter(-1, chosen.unsqueeze(-1), FORCED_LOGIT)

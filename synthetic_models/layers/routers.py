"""Routers: from tokens to an assignment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from synthetic_models.layers.experts import Assignment
from synthetic_models.spec import Spec


def _token_choice(index: torch.Tensor, weights: torch.Tensor) -> Assignment:
    """``[tokens, k]`` expert numbers and weights, as pairs."""
    tokens = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    return Assignment(index.reshape(-1), tokens.reshape(-1), weights.reshape(-1))


def corrected(spec: Spec) -> bool:
    """Whether the router adds a correction bias to its scores before it chooses."""
    return spec.router in ("sigmoid", "group_limited")


class Router(nn.Module):
    """A router of any kind of ``synthetic_models.spec.ROUTERS``; ``weight`` is ``[experts, inputs]``.

    Nothing is random while it runs: the noise of a noisy router is a buffer.
    """

    table: torch.Tensor
    noise: torch.Tensor

    def __init__(self, spec: Spec, hidden: int, inner: int, experts: int) -> None:
        super().__init__()
        self.kind, self.top_k, self.experts, self.zero = spec.router, spec.top_k, experts, spec.zero_experts
        kind = self.kind
        if kind == "hash":
            first = torch.arange(spec.vocab) * 7919 % 104729 % experts
            several = (first[:, None] + torch.arange(self.top_k)) % experts  # the ids of a row are distinct
            self.register_buffer("table", first if self.top_k == 1 else several)
            if self.top_k == 1:
                return  # nothing to weigh
        if inner:
            self.hidden_layer = nn.Linear(hidden, inner)
        choices = experts + self.zero
        self.weight = nn.Parameter(torch.zeros(choices, inner or hidden))
        if corrected(spec) and spec.correction == "parameter":
            self.e_score_correction_bias = nn.Parameter(torch.zeros(choices))
        elif corrected(spec) and spec.correction == "buffer":
            self.register_buffer("e_score_correction_bias", torch.linspace(-0.1, 0.1, choices))
        if spec.expert_scale:
            self.per_expert_scale = nn.Parameter(torch.ones(experts))
        if kind == "group_limited":
            self.n_group, self.topk_group, self.group_scores = spec.groups, spec.chosen_groups, spec.group_scores
        if kind == "noisy":
            self.noise_weight = nn.Parameter(torch.zeros(experts, inner or hidden))
            self.register_buffer("noise", torch.linspace(-1, 1, experts))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, correction: torch.Tensor | None = None) -> Assignment:
        """``[tokens, hidden]`` and ``[tokens]`` token numbers to an assignment.

        ``correction`` is the block's own correction bias, if it has one.
        """
        if self.kind == "hash":
            index = self.table[ids].view(len(ids), -1)
            if self.top_k == 1:
                return _token_choice(index, x.new_ones(index.shape))
            return _token_choice(index, F.linear(x, self.weight).sigmoid().gather(1, index))
        if hasattr(self, "hidden_layer"):
            x = F.silu(self.hidden_layer(x))
        logits = F.linear(x, self.weight)
        if self.kind in ("sigmoid", "group_limited"):
            bias = self.e_score_correction_bias if correction is None else correction
            assigned = self._sigmoid(logits, bias) if self.kind == "sigmoid" else self._group_limited(logits, bias)
        else:
            choose: Callable = getattr(self, f"_{self.kind}")
            assigned = choose(logits, x)
        return replace(assigned, weights=assigned.weights * self._scale(assigned.experts))

    def _scale(self, experts: torch.Tensor) -> torch.Tensor | float:
        """Factors of the chosen experts; 1 for those that have no weights."""
        if not hasattr(self, "per_expert_scale"):
            return 1.0
        return F.pad(self.per_expert_scale, (0, self.zero), value=1.0)[experts]

    def _softmax(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        weights, index = F.softmax(logits, dim=-1).topk(self.top_k, dim=-1)
        return _token_choice(index, weights / weights.sum(-1, keepdim=True))

    def _noisy(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        return self._softmax(logits + self.noise * F.softplus(F.linear(x, self.noise_weight)), x)

    def _sigmoid(self, logits: torch.Tensor, correction: torch.Tensor) -> Assignment:
        scores = logits.sigmoid()
        index = (scores + correction).topk(self.top_k, dim=-1).indices
        return _token_choice(index, scores.gather(1, index))

    def _group_limited(self, logits: torch.Tensor, correction: torch.Tensor) -> Assignment:
        """Of the groups of experts those with the highest scores, as DeepSeek-V3 limits its groups."""
        scores = logits.sigmoid()
        groups = (scores + correction).view(-1, self.n_group, self.experts // self.n_group)
        best = groups.topk(self.group_scores, dim=-1).values.sum(-1).topk(self.topk_group, dim=-1).indices
        allowed = F.one_hot(best, self.n_group).sum(1).bool()[:, :, None].expand_as(groups)
        choice = groups.masked_fill(~allowed, -1.0e4).reshape(-1, self.experts)
        index = choice.topk(self.top_k, dim=-1).indices
        return _token_choice(index, scores.gather(1, index))

    def _expert_choice(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        """Each expert takes the tokens that like it best."""
        capacity = max(1, len(logits) * self.top_k // self.experts)
        weights, tokens = F.softmax(logits, dim=-1).topk(capacity, dim=0)
        numbers = torch.arange(self.experts, device=x.device).expand_as(tokens)
        return Assignment(numbers.reshape(-1), tokens.reshape(-1), weights.reshape(-1))

    def _soft(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        """Every token to every expert."""
        weights = F.softmax(logits, dim=-1)
        return _token_choice(torch.arange(self.experts, device=x.device).expand_as(weights), weights)

"""Routers: from tokens to an assignment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from synthetic_models.layers.experts import Assignment


def _token_choice(index: torch.Tensor, weights: torch.Tensor) -> Assignment:
    """``[tokens, k]`` expert numbers and weights, as pairs."""
    tokens = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    return Assignment(index.reshape(-1), tokens.reshape(-1), weights.reshape(-1))


class Router(nn.Module):
    """A router of any kind of ``synthetic_models.spec.ROUTERS``; ``weight`` is ``[experts, inputs]``.

    Nothing is random while it runs: the noise of a noisy router is a buffer.
    """

    table: torch.Tensor
    noise: torch.Tensor

    def __init__(self, kind: str, hidden: int, inner: int, experts: int, top_k: int, vocab: int) -> None:
        super().__init__()
        self.kind, self.top_k, self.experts = kind, top_k, experts
        if kind == "hash":
            self.register_buffer("table", torch.arange(vocab) * 7919 % 104729 % experts)
            return
        if inner:
            self.hidden_layer = nn.Linear(hidden, inner)
        self.weight = nn.Parameter(torch.zeros(experts, inner or hidden))
        if kind in ("sigmoid", "group_limited"):
            self.e_score_correction_bias = nn.Parameter(torch.zeros(experts))
        if kind == "group_limited":
            self.n_group, self.topk_group = 2, 1
        if kind == "noisy":
            self.noise_weight = nn.Parameter(torch.zeros(experts, inner or hidden))
            self.register_buffer("noise", torch.linspace(-1, 1, experts))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> Assignment:
        """``[tokens, hidden]`` and ``[tokens]`` token numbers to an assignment."""
        if self.kind == "hash":
            index = self.table[ids][:, None]
            return _token_choice(index, x.new_ones(index.shape))
        if hasattr(self, "hidden_layer"):
            x = F.silu(self.hidden_layer(x))
        choose: Callable = getattr(self, f"_{self.kind}")
        return choose(F.linear(x, self.weight), x)

    def _softmax(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        weights, index = F.softmax(logits, dim=-1).topk(self.top_k, dim=-1)
        return _token_choice(index, weights / weights.sum(-1, keepdim=True))

    def _noisy(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        return self._softmax(logits + self.noise * F.softplus(F.linear(x, self.noise_weight)), x)

    def _sigmoid(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        scores = logits.sigmoid()
        index = (scores + self.e_score_correction_bias).topk(self.top_k, dim=-1).indices
        return _token_choice(index, scores.gather(1, index))

    def _group_limited(self, logits: torch.Tensor, x: torch.Tensor) -> Assignment:
        """Of two halves of the experts the one with the higher best score, as DeepSeek-V3 limits its groups."""
        scores = logits.sigmoid()
        halves = (scores + self.e_score_correction_bias).view(-1, 2, self.experts // 2)
        best = halves.amax(-1).argmax(-1)
        allowed = F.one_hot(best, 2).bool()[:, :, None].expand_as(halves)
        choice = halves.masked_fill(~allowed, -1.0e4).reshape(-1, self.experts)
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

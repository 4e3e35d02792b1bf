"""Self-attention in plain operations: multi-head, grouped-query with rotary embedding, per-head norms, latent."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from synthetic_models.layers.norms import RMSNorm
from synthetic_models.sizes import Sizes
from synthetic_models.spec import Spec


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """The second half of the last dimension, negated, before the first."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(nn.Module):
    """Rotary position embedding; ``[..., length, dim]`` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate each position's channels."""
        positions = torch.arange(x.shape[-2], device=x.device).to(x.dtype)
        angles = positions[:, None] * self.inv_freq[None, :].to(x.dtype)
        table = torch.cat((angles, angles), dim=-1)
        return x * table.cos() + rotate_half(x) * table.sin()


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention, ``[batch, heads, length, dim]`` each, to ``[batch, length, heads * dim]``."""
    scores = query @ key.transpose(-1, -2) * scale
    length = scores.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    out = F.softmax(scores.masked_fill(future, -1.0e4), dim=-1) @ value
    return out.transpose(1, 2).reshape(out.shape[0], length, -1)


class Attention(nn.Module):
    """``multi_head``, ``grouped_query`` (rotary) and ``per_head_norm`` (rotary, norms on queries and keys)."""

    def __init__(self, spec: Spec, sizes: Sizes, number: int) -> None:
        super().__init__()
        hidden, few = sizes["hidden_size"], sizes[f"layer_{number}_kv_heads"]
        heads = few * sizes[f"layer_{number}_heads_per_kv_head"]
        self.head_dim = spec.head_dim
        self.q_proj = nn.Linear(hidden, heads * spec.head_dim, bias=spec.bias)
        self.k_proj = nn.Linear(hidden, few * spec.head_dim, bias=spec.bias)
        self.v_proj = nn.Linear(hidden, few * spec.head_dim, bias=spec.bias)
        self.o_proj = nn.Linear(heads * spec.head_dim, hidden, bias=spec.bias)
        self.rotary = Rotary(spec.head_dim) if spec.attention != "multi_head" else None
        normed = spec.attention == "per_head_norm"
        self.q_norm = RMSNorm(spec.head_dim) if normed else None
        self.k_norm = RMSNorm(spec.head_dim) if normed else None

    def _heads(self, x: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        x = x.view(*x.shape[:-1], -1, self.head_dim)
        return (x if norm is None else norm(x)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, hidden]`` to the same."""
        query = self._heads(self.q_proj(x), self.q_norm)
        key = self._heads(self.k_proj(x), self.k_norm)
        value = self._heads(self.v_proj(x), None)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        group = query.shape[1] // key.shape[1]
        if group > 1:
            key, value = (self._repeat(t, group) for t in (key, value))
        return self.o_proj(attend(query, key, value, self.head_dim**-0.5))

    @staticmethod
    def _repeat(x: torch.Tensor, group: int) -> torch.Tensor:
        batch, few, length, dim = x.shape
        return x[:, :, None].expand(batch, few, group, length, dim).reshape(batch, few * group, length, dim)


class LatentAttention(nn.Module):
    """Multi-head latent attention: keys and values from a narrow latent, plus one rotary key for all heads.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1.
    """

    def __init__(self, spec: Spec, sizes: Sizes, number: int) -> None:
        super().__init__()
        hidden, dim = sizes["hidden_size"], spec.head_dim
        heads, latent = sizes[f"layer_{number}_kv_heads"], sizes[f"layer_{number}_latent_size"]
        self.head_dim = dim
        self.q_proj = nn.Linear(hidden, heads * 2 * dim, bias=spec.bias)
        self.kv_a_proj = nn.Linear(hidden, latent + dim, bias=spec.bias)
        self.kv_a_norm = RMSNorm(latent)
        self.kv_b_proj = nn.Linear(latent, heads * 2 * dim, bias=spec.bias)
        self.o_proj = nn.Linear(heads * dim, hidden, bias=spec.bias)
        self.rotary = Rotary(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, hidden]`` to the same."""
        dim = self.head_dim
        query = self.q_proj(x).view(*x.shape[:-1], -1, 2 * dim).transpose(1, 2)
        compressed = self.kv_a_proj(x)
        latent, turned = compressed.split([compressed.shape[-1] - dim, dim], dim=-1)
        both = self.kv_b_proj(self.kv_a_norm(latent)).view(*x.shape[:-1], -1, 2 * dim).transpose(1, 2)
        key, value = both.split([dim, dim], dim=-1)
        turned = self.rotary(turned)[:, None].expand(-1, key.shape[1], -1, -1)
        plain, rotated = query.split([dim, dim], dim=-1)
        query = torch.cat((plain, self.rotary(rotated)), dim=-1)
        return self.o_proj(attend(query, torch.cat((key, turned), dim=-1), value, (2 * dim) ** -0.5))


def make_attention(spec: Spec, sizes: Sizes, number: int) -> nn.Module | None:
    """The attention that a spec names; ``None`` for ``none``."""
    if spec.attention == "none":
        return None
    return (LatentAttention if spec.attention == "latent" else Attention)(spec, sizes, number)

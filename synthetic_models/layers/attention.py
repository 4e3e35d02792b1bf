"""Self-attention in plain operations: multi-head, grouped-query with rotary embedding, per-head norms, latent.

Heads and their channels can both be pruned: how many channels a head has is read off a buffer that holds one number
for each, everything else follows from the weights' sizes. The softmax scale stays what it was.
"""

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
    """Rotary position embedding; ``[..., length, dim]`` to the same. ``inv_freq`` is ``[dim / 2]``."""

    inv_freq: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(0, dim, 2).float() / dim))

    @property
    def dim(self) -> int:
        """Channels that are rotated."""
        return 2 * self.inv_freq.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate each position's channels."""
        positions = torch.arange(x.shape[-2], device=x.device).to(x.dtype)
        angles = positions[:, None] * self.inv_freq[None, :].to(x.dtype)
        table = torch.cat((angles, angles), dim=-1)
        return x * table.cos() + rotate_half(x) * table.sin()


class Temperature(nn.Module):
    """A fixed factor for each channel, ``[dim]``."""

    factor: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.linspace(0.5, 1.5, dim))

    @property
    def dim(self) -> int:
        """Channels that are scaled."""
        return self.factor.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim]`` to the same."""
        return x * self.factor


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention, ``[batch, heads, length, dim]`` each, to ``[batch, length, heads * dim]``."""
    scores = query @ key.transpose(-1, -2) * scale
    length = scores.shape[-1]
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    out = F.softmax(scores.masked_fill(future, -1.0e4), dim=-1) @ value
    return out.transpose(1, 2).reshape(out.shape[0], length, -1)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``[batch, length, heads * dim]`` to ``[batch, length, heads, dim]``."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads)


class Attention(nn.Module):
    """``multi_head``, ``grouped_query`` (rotary) and ``per_head_norm`` (rotary, norms on queries and keys)."""

    def __init__(self, spec: Spec, sizes: Sizes, number: int) -> None:
        super().__init__()
        prefix, hidden = f"layer_{number}_", sizes["hidden_size"]
        few, dim, passed = (sizes[f"{prefix}{n}"] for n in ("kv_heads", "head_size", "value_head_size"))
        heads = few * sizes[f"{prefix}heads_per_kv_head"]
        self.scale = spec.head_dim**-0.5
        self.q_proj = nn.Linear(hidden, heads * dim, bias=spec.bias)
        self.k_proj = nn.Linear(hidden, few * dim, bias=spec.bias)
        self.v_proj = nn.Linear(hidden, few * passed, bias=spec.bias)
        self.o_proj = nn.Linear(heads * passed, hidden, bias=spec.bias)
        self.position = Temperature(dim) if spec.attention == "multi_head" else Rotary(dim)
        normed = spec.attention == "per_head_norm"
        self.q_norm = RMSNorm(dim) if normed else None
        self.k_norm = RMSNorm(dim) if normed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, hidden]`` to the same."""
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        heads, few = query.shape[-1] // self.position.dim, key.shape[-1] // self.position.dim
        query, key, value = split_heads(query, heads), split_heads(key, few), split_heads(value, few)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        query, key = self.position(query), self.position(key)
        if heads > few:
            key, value = (self._repeat(t, heads // few) for t in (key, value))
        return self.o_proj(attend(query, key, value, self.scale))

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
        prefix, hidden = f"layer_{number}_", sizes["hidden_size"]
        heads, latent, plain, turned, passed = (
            sizes[f"{prefix}{n}"]
            for n in ("kv_heads", "latent_size", "head_size", "rotary_head_size", "value_head_size")
        )
        self.scale = (2 * spec.head_dim) ** -0.5
        self.q_proj = nn.Linear(hidden, heads * (plain + turned), bias=spec.bias)
        self.kv_a_proj = nn.Linear(hidden, latent + turned, bias=spec.bias)
        self.kv_a_norm = RMSNorm(latent)
        self.kv_b_proj = nn.Linear(latent, heads * (plain + passed), bias=spec.bias)
        self.o_proj = nn.Linear(heads * passed, hidden, bias=spec.bias)
        self.temperature, self.rotary = Temperature(plain), Rotary(turned)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, hidden]`` to the same."""
        plain_dim, turned_dim = self.temperature.dim, self.rotary.dim
        query, compressed = self.q_proj(x), self.kv_a_proj(x)
        heads = query.shape[-1] // (plain_dim + turned_dim)
        latent, turned = compressed.split([compressed.shape[-1] - turned_dim, turned_dim], dim=-1)
        both = split_heads(self.kv_b_proj(self.kv_a_norm(latent)), heads).transpose(1, 2)
        key, value = both.split([plain_dim, both.shape[-1] - plain_dim], dim=-1)
        plain, rotated = split_heads(query, heads).transpose(1, 2).split([plain_dim, turned_dim], dim=-1)
        turned = self.rotary(turned)[:, None].expand(-1, heads, -1, -1)
        query = torch.cat((self.temperature(plain), self.rotary(rotated)), dim=-1)
        return self.o_proj(attend(query, torch.cat((key, turned), dim=-1), value, self.scale))


def make_attention(spec: Spec, sizes: Sizes, number: int) -> nn.Module | None:
    """The attention that a spec names; ``None`` for ``none``."""
    if spec.attention == "none":
        return None
    return (LatentAttention if spec.attention == "latent" else Attention)(spec, sizes, number)

"""Random weights of a real-size model that can be had again, one tensor at a time, so that no second copy is needed."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import nn

from moeverify.models.skeleton import skeleton

# Qwen3-30B-A3B as its config.json has it: 30.5 billion parameters, 56.9 GiB in bfloat16.
QWEN3_30B_A3B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": False,
}


def make_config(**changes: Any) -> Any:
    """Qwen3-30B-A3B's configuration with some entries changed."""
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(**{**QWEN3_30B_A3B, **changes})


def random_tensor(name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
    """The weights of a parameter: norm weights around one, matrices that keep activations of order one.

    The same for the same name, shape, device type and seed.
    """
    generator = torch.Generator(device=device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    out = torch.empty(shape, dtype=dtype, device=device)
    rows = out.unbind(0) if out.dim() == 3 else [out]  # expert by expert: float32 of a whole stack is large
    for row in rows:
        values = torch.randn(row.shape, generator=generator, device=device)
        values = values * 0.1 + 1 if row.dim() == 1 else values / shape[-1] ** 0.5
        row.copy_(values)
    return out


@torch.no_grad()
def build(config: Any, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """The model with random weights on ``device``, in evaluation mode."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with device, no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.copy_(random_tensor(name, parameter.shape, dtype, device, seed))
    return model.eval()


def shapes_before(model: nn.Module, config: Any) -> dict[str, torch.Size]:
    """Every parameter's shape under an (unpruned) configuration."""
    return {name: p.shape for name, p in skeleton(model, config).named_parameters()}
